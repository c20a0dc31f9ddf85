#include "launch/options_table.h"

#include <math.h>
#include <string.h>

#include "kernels/device.h"

#define G (1u << PHX_VERB_GENERATE)
#define P (1u << PHX_VERB_PERPLEXITY)
#define T (1u << PHX_VERB_TOKENIZE)
#define Y (1u << PHX_VERB_TOPOLOGY)
#define N (1u << PHX_VERB_PLAN)
#define A (1u << PHX_VERB_AUDIT)
#define H (1u << PHX_VERB_CHAT)
#define S (1u << PHX_VERB_SERVE)
#define C (1u << PHX_VERB_COMPARE)
#define B (1u << PHX_VERB_BENCH)
#define V (1u << PHX_VERB_CONVERT)
#define FIELD(name) .field = offsetof(struct phx_options, name)

const struct phx_verb_row phx_verb_rows[PHX_VERB_COUNT] = {
    [PHX_VERB_GENERATE] =
        {"generate", "continue one text, or several at once",
         "  phalanx generate -p \"JULIET:\"\n"
         "  mpirun -np 4 --bind-to none phalanx generate -m MODEL -f prompt.txt -n 500\n"
         "  fortune | phalanx generate -m MODEL --json\n"
         "\n"
         "Without a prompt option the prompt is what comes in on standard input. A sampling value\n"
         "that is not given is taken from the model's generation_config.json if that names it;\n"
         "the defaults below are for the rest. The text goes to standard output, all else to\n"
         "standard error.\n"
         "\n"
         "Ctrl-C ends the run and keeps all that was made; under mpirun, which then kills its\n"
         "ranks, only if the step under way takes no longer than half a second.\n"},
    [PHX_VERB_CHAT] =
        {"chat", "talk with a model on the terminal",
         "  phalanx chat -m MODEL\n"
         "  mpirun -np 2 --bind-to none phalanx chat -m MODEL --system \"Be brief.\"\n"
         "\n"
         "A line is a message; the model's own chat template makes a text of the conversation.\n"
         "/clear begins a new one, /exit or the end of the input ends. Sampling values are as\n"
         "with generate.\n"},
    [PHX_VERB_SERVE] =
        {"serve", "an OpenAI-compatible server",
         "  mpirun -np 2 --bind-to none phalanx serve -m MODEL --port 8080\n"
         "  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"JULIET:\"}'\n"
         "\n"
         "Rank 0 listens, the others follow its batches. Where a request says nothing, sampling\n"
         "values are those of the model's generation_config.json, and plain ones for the rest.\n"
         "SIGTERM to rank 0 (see --pid-file), SIGUSR1 to mpirun or Ctrl-C without mpirun: nothing\n"
         "new is taken, what is under way is finished. A second one, or SIGTERM or Ctrl-C to\n"
         "mpirun, ends it at once.\n"},
    [PHX_VERB_PERPLEXITY] =
        {"perplexity", "how well a model predicts a text",
         "  phalanx perplexity -m MODEL -f text.txt\n"
         "  mpirun -np 2 --bind-to none phalanx perplexity -f text.txt --window 256 --json\n"
         "\n"
         "The text, a file or standard input, is scored as it is, without a BOS token, window by\n"
         "window: each token of a window predicts the next one of the text. Where a stride "
         "shorter\n"
         "than the window makes windows overlap, only what is new in a window is scored.\n"},
    [PHX_VERB_TOKENIZE] =
        {"tokenize", "text to token ids, and back",
         "  phalanx tokenize -p \"Good night, good night!\"\n"
         "  phalanx tokenize -m MODEL --ids 1,2,3\n"
         "\n"
         "Without -p, -f or --ids the text is what comes in on standard input.\n"},
    [PHX_VERB_TOPOLOGY] =
        {"topology", "where the ranks go, what connects them, and what is wrong with that",
         "  mpirun -np 4 --bind-to none phalanx topology\n"
         "  srun -n 4 --gpus-per-task=1 phalanx topology --json\n"
         "\n"
         "Started as a run would be; takes nothing of a GPU and needs no model.\n"},
    [PHX_VERB_PLAN] =
        {"plan", "whether a model will fit, on how many ranks, and how fast it can be at best",
         "  phalanx plan -m MODEL --gpu h100 -c 32768\n"
         "  phalanx plan -m MODEL -T 1,2,4,8 --gpu 48GiB --batch 16 --json\n"
         "\n"
         "Takes no GPU and no mpirun, and no weights: a folder with config.json will do.\n"},
    [PHX_VERB_AUDIT] =
        {"audit", "prove which KV head every query head reads, on live data",
         "  phalanx audit -m MODEL\n"
         "  mpirun -np 2 --bind-to none phalanx audit -m MODEL --layers 0,5 --json FILE\n"
         "\n"
         "Runs the prompt (or a sentence of its own; short ones are repeated) beside a decoy and\n"
         "judges what every rank really read and computed by a plain calculation in double\n"
         "precision on the whole weights. The verdict comes last; exit status 1 if anything is\n"
         "wrong.\n"},
    [PHX_VERB_COMPARE] =
        {"compare", "find the first place where two runs differ",
         "  mpirun -np 3 --bind-to none phalanx compare -m MODEL -p \"To be\"\n"
         "  phalanx compare -m MODEL --dump out; phalanx compare -m MODEL --against out\n"
         "\n"
         "Runs the prompt on these ranks and holds every activation, in the order of execution,\n"
         "against a plain calculation in double precision on the whole weights (solo), or against\n"
         "DIR/activations.safetensors. Exit status 1 if one is out of its tolerance.\n"},
    [PHX_VERB_BENCH] =
        {"bench", "how fast prompts are read and tokens are made, against what is possible",
         "  phalanx bench -m MODEL -p 512 -n 128 --batch 1,8,64\n"
         "  mpirun -np 2 --bind-to none phalanx bench -m MODEL --load-format dummy -d 8192 -o "
         "json\n"
         "\n"
         "Tests and words are those of llama-bench: pp512 reads a prompt of 512 tokens, tg128\n"
         "makes 128, pp512+tg128 both; @ d8192: with 8192 tokens in the cache before. A list\n"
         "(1,2,4) or a range (1-8, 1-9+2, 1-64*2) measures each value. bench/README.md tells what\n"
         "is reported.\n"},
    [PHX_VERB_CONVERT] =
        {"convert", "a checkpoint of safetensors into a GGUF file, and back",
         "  phalanx convert -m FOLDER -o model.gguf --type q8_0\n"
         "  phalanx convert -m model.gguf -o FOLDER\n"
         "\n"
         "What -m is decides the direction. A GGUF takes tokenizer.json along, not the sampling\n"
         "defaults of generation_config.json. The file says in itself what it is: its name is "
         "free.\n"},
    [PHX_VERB_HELP] = {"help", "the options of a verb: phalanx help generate", NULL},
    [PHX_VERB_VERSION] = {"version", "the version, as --version", NULL},
};

/* clang-format off */
const struct phx_option_row phx_option_rows[] = {
    {.names = {"-m", "--model"}, .kind = PHX_VALUE_NAME, FIELD(model),
     .verbs = G | P | T | N | A | C | V | B | S | H, .group = PHX_GROUP_MODEL, .value = "MODEL",
     .help = "folder of the model: config.json, tokenizer.json, *.safetensors; or a GGUF file "
             "(default: the embedded one)"},
    {.names = {"-o", "--out"}, .kind = PHX_VALUE_NAME, FIELD(convert_out),
     .verbs = V, .group = PHX_GROUP_OUTPUT, .value = "PATH",
     .help = "what to write: a GGUF file, or a folder that is there"},
    {.names = {"--type"}, .kind = PHX_VALUE_CHOICE, FIELD(convert_type), .fallback = "auto",
     .choices = {"auto", "f32", "f16", "bf16", "q8_0", "q4_0"},
     .verbs = V, .group = PHX_GROUP_OUTPUT, .value = "TYPE",
     .help = "of matrices; auto: what they are, of a quantised one bf16; a matrix whose rows are "
             "no whole blocks of 32 becomes f16 in place of q8_0 and q4_0"},
    {.names = {"--load-format"}, .kind = PHX_VALUE_CHOICE, FIELD(load_format), .fallback = "auto",
     .choices = {"auto", "safetensors", "dummy"},
     .verbs = G | P | N | A | C | B | S | H, .group = PHX_GROUP_MODEL, .value = "FORMAT",
     .help = "where weights come from; dummy: made up, needs only config.json"},
    {.names = {"--load-mode"}, .kind = PHX_VALUE_CHOICE, FIELD(load_mode), .fallback = "auto",
     .choices = {"auto", "mmap", "read", "direct"},
     .verbs = G | P | A | C | B | S | H, .group = PHX_GROUP_MODEL, .value = "MODE",
     .help = "how files are read: mapped, in large pieces, or in large pieces past the page cache; "
             "auto: mmap, but read from a network's file system"},
    {.names = {"--dtype"}, .kind = PHX_VALUE_CHOICE, FIELD(compute), .fallback = "auto",
     .choices = {"auto", "float32", "bfloat16"},
     .verbs = G | P | N | A | C | B | S | H, .group = PHX_GROUP_MODEL, .value = "TYPE",
     .help = "what products compute in; weights stay as stored. auto: float32 on the CPU, the "
             "weights' type on a GPU"},
    {.names = {"--kv-cache-dtype"}, .kind = PHX_VALUE_CHOICE, FIELD(kv_cache), .fallback = "auto",
     .choices = {"auto", "f32", "f16", "bf16"},
     .verbs = G | P | N | A | C | B | S | H, .group = PHX_GROUP_MODEL, .value = "TYPE",
     .help = "type of the KV cache; auto: f32 on the CPU, that of the activations on a GPU"},
    {.names = {"-c", "--ctx-size", "--max-model-len"}, .kind = PHX_VALUE_INT, FIELD(context),
     .fallback = "0", .min = 0, .max = INT32_MAX,
     .verbs = G | P | N | A | C | S | H, .group = PHX_GROUP_MODEL, .value = "N",
     .help = "longest text in tokens, prompt and continuation; 0: what the model was made for"},

    {.names = {"-T", "--ranks"}, .kind = PHX_VALUE_NAME, FIELD(ranks), .fallback = "all",
     .verbs = N, .group = PHX_GROUP_MACHINE, .value = "1,2,4|all",
     .help = "numbers of ranks; all: up to the first that is impossible"},
    {.names = {"--gpu"}, .kind = PHX_VALUE_NAME, FIELD(gpu),
     .verbs = N, .group = PHX_GROUP_MACHINE, .value = "KIND",
     .help = "h200, h100, a100, or a GPU's memory as in 80GiB, each rank with its own; without: "
             "the CPU of this machine"},
    {.names = {"--batch"}, .kind = PHX_VALUE_INT, FIELD(batch), .fallback = "1",
     .min = 1, .max = PHX_MAX_SEQS,
     .verbs = N, .group = PHX_GROUP_MACHINE, .value = "N",
     .help = "texts at the same time, each as long as the context"},

    {.names = {"-p", "--prompt"}, .kind = PHX_VALUE_TEXTS, FIELD(prompts),
     .verbs = G | T | A | C, .group = PHX_GROUP_TEXT, .value = "TEXT",
     .help = "the text; given again it is one more, and all go through together (audit and "
             "compare take one)"},
    {.names = {"-f", "--file"}, .kind = PHX_VALUE_NAME, FIELD(prompt_file),
     .verbs = G | P | T | A | C, .group = PHX_GROUP_TEXT, .value = "FILE",
     .help = "read the text from a file; -: from standard input"},
    {.names = {"--prompts"}, .kind = PHX_VALUE_NAME, FIELD(prompts_file),
     .verbs = G, .group = PHX_GROUP_TEXT, .value = "FILE",
     .help = "a file with a prompt on each line; -: standard input"},
    {.names = {"--prompt-ids"}, .kind = PHX_VALUE_IDS, FIELD(prompt_ids),
     .min = 0, .max = INT32_MAX,
     .verbs = G | A | C, .group = PHX_GROUP_TEXT, .value = "1,2,3",
     .help = "the prompt as token ids, taken as they are"},
    {.names = {"--ids"}, .kind = PHX_VALUE_IDS, FIELD(ids), .min = 0, .max = INT32_MAX,
     .verbs = T, .group = PHX_GROUP_TEXT, .value = "1,2,3",
     .help = "token ids to turn into text"},
    {.names = {"--no-bos"}, .kind = PHX_VALUE_FLAG, FIELD(no_bos),
     .verbs = G | T | A | C, .group = PHX_GROUP_TEXT,
     .help = "do not add the tokens (BOS, ...) that the tokenizer puts around a text"},

    {.names = {"-n", "--n-predict", "--max-tokens"}, .kind = PHX_VALUE_INT, FIELD(n_predict),
     .fallback = "128", .min = -1, .max = INT32_MAX,
     .verbs = G | H, .group = PHX_GROUP_LENGTH, .value = "N",
     .help = "tokens to generate at most; -1: until the context is full, 0: only read the prompt"},
    {.names = {"--stop"}, .kind = PHX_VALUE_TEXTS, FIELD(stop),
     .verbs = G | H, .group = PHX_GROUP_LENGTH, .value = "TEXT",
     .help = "end before this text would appear; may be given again"},
    {.names = {"--ignore-eos"}, .kind = PHX_VALUE_FLAG, FIELD(ignore_eos),
     .verbs = G, .group = PHX_GROUP_LENGTH,
     .help = "go on after the model's end-of-text tokens"},
    {.names = {"--force-ids"}, .kind = PHX_VALUE_IDS, FIELD(force_ids), .min = 0, .max = INT32_MAX,
     .verbs = G, .group = PHX_GROUP_LENGTH, .value = "1,2,3",
     .help = "continue with these ids first, whatever the model says (teacher forcing)"},

    {.names = {"-s", "--seed"}, .kind = PHX_VALUE_LONG, FIELD(seed), .fallback = "-1",
     .min = -1, .max = INFINITY,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "N",
     .help = "the same seed gives the same text, alone or in a batch, and in float32 on any "
             "number of ranks; -1: a new one each time"},
    {.names = {"--temp", "--temperature"}, .kind = PHX_VALUE_NUMBER, FIELD(temperature),
     .fallback = "0.8", .min = 0, .max = INFINITY,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "X",
     .help = "0: always the likeliest token; higher: more surprising"},
    {.names = {"--top-k"}, .kind = PHX_VALUE_INT, FIELD(top_k), .fallback = "40",
     .min = 0, .max = INT32_MAX,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "N",
     .help = "draw among the N likeliest tokens; 0: among all"},
    {.names = {"--top-p"}, .kind = PHX_VALUE_NUMBER, FIELD(top_p), .fallback = "0.95",
     .min = 0, .max = 1, .above_min = true,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "X",
     .help = "draw among the likeliest tokens that together reach this probability; 1: all"},
    {.names = {"--min-p"}, .kind = PHX_VALUE_NUMBER, FIELD(min_p), .fallback = "0.05",
     .min = 0, .max = 1,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "X",
     .help = "leave out tokens less likely than X times the likeliest; 0: none"},
    {.names = {"--repeat-penalty"}, .kind = PHX_VALUE_NUMBER, FIELD(repeat_penalty),
     .fallback = "1", .min = 0, .max = INFINITY, .above_min = true,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "X",
     .help = "over 1: tokens of the prompt and the text so far become less likely"},
    {.names = {"--presence-penalty"}, .kind = PHX_VALUE_NUMBER, FIELD(presence_penalty),
     .fallback = "0", .min = -2, .max = 2,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "X",
     .help = "taken off the logit of a token that the text already has"},
    {.names = {"--frequency-penalty"}, .kind = PHX_VALUE_NUMBER, FIELD(frequency_penalty),
     .fallback = "0", .min = -2, .max = 2,
     .verbs = G | H, .group = PHX_GROUP_SAMPLING, .value = "X",
     .help = "taken off it once for each time it appeared"},
    {.names = {"-l", "--logit-bias"}, .kind = PHX_VALUE_BIASES, FIELD(logit_bias),
     .min = 0, .max = INT32_MAX,
     .verbs = G, .group = PHX_GROUP_SAMPLING, .value = "ID+X",
     .help = "add X to the logit of a token: 29+1.5, 29-1.5, 29-inf (never); may be given again"},

    {.names = {"-p", "--n-prompt"}, .kind = PHX_VALUE_INTS, FIELD(bench_prompt), .fallback = "512",
     .min = 0, .max = INT32_MAX, .verbs = B, .group = PHX_GROUP_LENGTH, .value = "N,...",
     .help = "tokens of the prompt to read; 0: no such test"},
    {.names = {"-n", "--n-gen"}, .kind = PHX_VALUE_INTS, FIELD(bench_generate), .fallback = "128",
     .min = 0, .max = INT32_MAX, .verbs = B, .group = PHX_GROUP_LENGTH, .value = "N,...",
     .help = "tokens to make; 0: no such test"},
    {.names = {"-pg"}, .kind = PHX_VALUE_PAIRS, FIELD(bench_both),
     .min = 1, .max = INT32_MAX, .verbs = B, .group = PHX_GROUP_LENGTH, .value = "P,N",
     .help = "read P tokens and then make N, timed together; may be given again"},
    {.names = {"--test"}, .kind = PHX_VALUE_TEXTS, FIELD(tests),
     .verbs = B, .group = PHX_GROUP_LENGTH, .value = "P,N,D,B",
     .help = "one test more: read P tokens and make N, after D in the cache, for B sequences; may "
             "be given again. Without -p, -n and -pg only these"},
    {.names = {"-d", "--n-depth"}, .kind = PHX_VALUE_INTS, FIELD(depth), .fallback = "0",
     .min = 0, .max = INT32_MAX, .verbs = B, .group = PHX_GROUP_LENGTH, .value = "N,...",
     .help = "tokens that each sequence has in the cache before a test"},
    {.names = {"--fill"}, .kind = PHX_VALUE_CHOICE, FIELD(fill), .fallback = "computed",
     .choices = {"computed", "noise"},
     .verbs = B, .group = PHX_GROUP_LENGTH, .value = "HOW",
     .help = "where these come from: read once before the test, as prompts are, or made-up keys "
             "and values, which is quicker"},
    {.names = {"--batch"}, .kind = PHX_VALUE_INTS, FIELD(batches), .fallback = "1",
     .min = 1, .max = PHX_MAX_SEQS, .verbs = B, .group = PHX_GROUP_LENGTH, .value = "N,...",
     .help = "sequences at the same time, each with the tokens of the test and the depth"},
    {.names = {"-b", "--batch-size"}, .kind = PHX_VALUE_INTS, FIELD(step_tokens),
     .fallback = "2048", .min = 1, .max = 1048576, .verbs = B, .group = PHX_GROUP_MACHINE,
     .value = "N,...", .help = "tokens of a step at most, as -ub: the smaller of the two counts"},
    {.names = {"-ub", "--ubatch-size", "--max-num-batched-tokens"}, .kind = PHX_VALUE_INTS,
     FIELD(part_tokens), .fallback = "0", .min = 0, .max = 1048576, .verbs = B,
     .group = PHX_GROUP_MACHINE, .value = "N,...",
     .help = "tokens of a step at most; longer prompts are read in pieces of this size; 0: 2048 on "
             "GPUs, 512 on the CPU"},
    {.names = {"-t", "--threads"}, .kind = PHX_VALUE_INTS, FIELD(thread_counts), .min = 1,
     .max = 4096, .verbs = B, .group = PHX_GROUP_MACHINE, .value = "N,...",
     .help = "threads of each rank on the CPU (default: the machine's cores divided among its "
             "ranks)"},
    {.names = {"-r", "--repetitions"}, .kind = PHX_VALUE_INT, FIELD(repetitions), .fallback = "5",
     .min = 1, .max = 1000, .verbs = B, .group = PHX_GROUP_LENGTH, .value = "N",
     .help = "times that each test is run, after one that is not counted"},
    {.names = {"--breakdown"}, .kind = PHX_VALUE_FLAG, FIELD(breakdown),
     .verbs = B, .group = PHX_GROUP_OUTPUT,
     .help = "what products, attention, sums over ranks, norms, sampling, gaps and the host take "
             "of a step, each measured by itself, and how far they miss the step"},
    {.names = {"-o", "--output"}, .kind = PHX_VALUE_CHOICE, FIELD(output), .fallback = "md",
     .choices = {"md", "csv", "json", "jsonl"},
     .verbs = B, .group = PHX_GROUP_OUTPUT, .value = "FORM", .help = "form of the results"},

    {.names = {"--json"}, .kind = PHX_VALUE_FLAG, FIELD(json),
     .verbs = G | P | T | Y | N, .group = PHX_GROUP_OUTPUT,
     .help = "results as JSON, an object a line"},
    {.names = {"--json"}, .kind = PHX_VALUE_NAME, FIELD(json_out),
     .verbs = A | C, .group = PHX_GROUP_OUTPUT, .value = "FILE",
     .help = "write the results as JSON to a file too; -: to standard output, and nothing else"},
    {.names = {"--layers"}, .kind = PHX_VALUE_NAME, FIELD(layers),
     .verbs = A, .group = PHX_GROUP_OUTPUT, .value = "0,5|all",
     .help = "layers to look at (default: all)"},
    {.names = {"--heads"}, .kind = PHX_VALUE_NAME, FIELD(heads),
     .verbs = A, .group = PHX_GROUP_OUTPUT, .value = "0,7|all",
     .help = "query heads whose reads are shown (default: the first of each group); all are "
             "checked"},
    {.names = {"--brief"}, .kind = PHX_VALUE_FLAG, FIELD(brief),
     .verbs = A, .group = PHX_GROUP_OUTPUT,
     .help = "only the map, the checks and the verdict: no reads of single heads, and layers that "
             "are alike are shown once"},
    {.names = {"--against"}, .kind = PHX_VALUE_NAME, FIELD(against), .fallback = "solo",
     .verbs = C, .group = PHX_GROUP_OUTPUT, .value = "solo|DIR",
     .help = "what to compare with: the whole model by the reference, or a folder with dumped "
             "activations"},
    {.names = {"--dump"}, .kind = PHX_VALUE_NAME, FIELD(dump),
     .verbs = C, .group = PHX_GROUP_OUTPUT, .value = "DIR",
     .help = "write the activations to DIR/activations.safetensors too"},
    {.names = {"--quick"}, .kind = PHX_VALUE_FLAG, FIELD(quick),
     .verbs = C, .group = PHX_GROUP_OUTPUT,
     .help = "only the embedding, the output of each layer and the logits"},
    {.names = {"--logprobs"}, .kind = PHX_VALUE_INT, FIELD(logprobs), .fallback = "-1",
     .min = -1, .max = 20,
     .verbs = G, .group = PHX_GROUP_OUTPUT, .value = "N",
     .help = "with --json: the log-probability of each token, and of the N likeliest in its place; "
             "-1: none"},
    {.names = {"--logits-out"}, .kind = PHX_VALUE_NAME, FIELD(logits_out),
     .verbs = G, .group = PHX_GROUP_OUTPUT, .value = "FILE",
     .help = "a safetensors file with input_ids and the logits of every position, of one prompt"},
    {.names = {"--window"}, .kind = PHX_VALUE_INT, FIELD(window), .fallback = "0",
     .min = 0, .max = INT32_MAX,
     .verbs = P, .group = PHX_GROUP_LENGTH, .value = "N",
     .help = "tokens that are scored together; 0: as many as the context holds"},
    {.names = {"--stride"}, .kind = PHX_VALUE_INT, FIELD(stride), .fallback = "0",
     .min = 0, .max = INT32_MAX,
     .verbs = P, .group = PHX_GROUP_LENGTH, .value = "N",
     .help = "tokens from one window's start to the next; 0: a whole window"},
    {.names = {"--system"}, .kind = PHX_VALUE_NAME, FIELD(system_message),
     .verbs = H, .group = PHX_GROUP_TEXT, .value = "TEXT",
     .help = "a system message before the conversation"},
    {.names = {"--host"}, .kind = PHX_VALUE_NAME, FIELD(host), .fallback = "127.0.0.1",
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "ADDRESS",
     .help = "address to listen at; 0.0.0.0: all of this machine's"},
    {.names = {"--port"}, .kind = PHX_VALUE_INT, FIELD(port), .fallback = "8080",
     .min = 0, .max = 65535,
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "N",
     .help = "port to listen at; 0: any free one, which is then told"},
    {.names = {"--served-model-name"}, .kind = PHX_VALUE_NAME, FIELD(served_model_name),
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "NAME",
     .help = "what clients call the model (default: the name of its folder)"},
    {.names = {"--chat-template"}, .kind = PHX_VALUE_NAME, FIELD(chat_template),
     .verbs = S | H, .group = PHX_GROUP_MODEL, .value = "FILE",
     .help = "a Jinja template for chats in place of the model's own"},
    {.names = {"--api-key"}, .env = "PHX_API_KEY", .kind = PHX_VALUE_NAME, FIELD(api_key),
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "KEY",
     .help = "answer only requests with \"Authorization: Bearer KEY\"; others of this machine can "
             "see a command line: rather use --api-key-file"},
    {.names = {"--api-key-file"}, .kind = PHX_VALUE_NAME, FIELD(api_key_file),
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "FILE",
     .help = "the same, with the key in the first line of a file"},
    {.names = {"--ssl-certfile"}, .kind = PHX_VALUE_NAME, FIELD(ssl_certfile),
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "FILE",
     .help = "HTTPS with this certificate (PEM)"},
    {.names = {"--ssl-keyfile"}, .kind = PHX_VALUE_NAME, FIELD(ssl_keyfile),
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "FILE",
     .help = "its private key (PEM)"},
    {.names = {"--max-connections"}, .kind = PHX_VALUE_INT, FIELD(max_connections),
     .fallback = "1024", .min = 1, .max = 65535,
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "N",
     .help = "connections at the same time; more of them wait or are closed"},
    {.names = {"--max-body-mb"}, .kind = PHX_VALUE_INT, FIELD(max_body_mb), .fallback = "8",
     .min = 1, .max = 1024,
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "N",
     .help = "largest body of a request, in MiB"},
    {.names = {"--max-header-kb"}, .kind = PHX_VALUE_INT, FIELD(max_header_kb), .fallback = "64",
     .min = 4, .max = 1024,
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "N",
     .help = "memory of a connection for its header and what it reads and writes, in KiB"},
    {.names = {"--request-timeout"}, .kind = PHX_VALUE_INT, FIELD(request_timeout),
     .fallback = "60", .min = 1, .max = 86400,
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "SECONDS",
     .help = "a client must have sent its request, and taken a finished answer, in this time"},
    {.names = {"--shutdown-timeout"}, .kind = PHX_VALUE_INT, FIELD(shutdown_timeout),
     .fallback = "30", .min = 0, .max = 86400,
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "SECONDS",
     .help = "when it is told to stop, requests under way have so long"},
    {.names = {"--pid-file"}, .kind = PHX_VALUE_NAME, FIELD(pid_file),
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "FILE",
     .help = "write rank 0's process id there once requests are taken"},
    {.names = {"--log-format"}, .kind = PHX_VALUE_CHOICE, FIELD(log_format), .fallback = "text",
     .choices = {"text", "json"},
     .verbs = S, .group = PHX_GROUP_SERVER, .value = "FORMAT",
     .help = "of the line that each request leaves on standard error"},
    {.names = {"--kv-cache-tokens"}, .kind = PHX_VALUE_LONG, FIELD(kv_cache_tokens),
     .fallback = "0", .min = 0, .max = INFINITY,
     .verbs = S, .group = PHX_GROUP_MACHINE, .value = "N",
     .help = "tokens that the KV cache holds; 0: --max-num-seqs texts at their longest, or as many "
             "as fit"},
    {.names = {"--no-prefix-cache"}, .kind = PHX_VALUE_FLAG, FIELD(no_prefix_cache),
     .verbs = S, .group = PHX_GROUP_MACHINE,
     .help = "texts that begin alike do not share what was computed for them"},
    {.names = {"-v", "--verbose"}, .env = "PHX_VERBOSE", .kind = PHX_VALUE_FLAG, FIELD(verbose),
     .verbs = G | P | T | Y | N | A | C | V | B | S | H, .group = PHX_GROUP_OUTPUT,
     .help = "say more about what is done"},

    {.names = {"--device"}, .kind = PHX_VALUE_CHOICE, FIELD(device), .fallback = "auto",
     .choices = {"auto", "cpu", "cuda"},
     .verbs = G | P | Y | A | C | B | S | H, .group = PHX_GROUP_MACHINE, .value = "KIND",
     .help = "what computes; auto: the GPUs if there are any"},
    {.names = {"--share-gpu"}, .kind = PHX_VALUE_FLAG, FIELD(share_gpu),
     .verbs = G | P | Y | A | C | B | S | H, .group = PHX_GROUP_MACHINE,
     .help = "let ranks have the same GPU; they then add through the host, which is slow"},
    {.names = {"-t", "--threads"}, .kind = PHX_VALUE_INT, FIELD(threads), .min = 1, .max = 4096,
     .verbs = G | P | Y | N | A | C | S | H, .group = PHX_GROUP_MACHINE, .value = "N",
     .help = "threads of each rank on the CPU (default: the machine's cores divided among its "
             "ranks)"},
    {.names = {"-tp", "--tensor-parallel-size"}, .kind = PHX_VALUE_INT,
     FIELD(tensor_parallel_size), .min = 1, .max = INT32_MAX,
     .verbs = G | P | A | C | B | S | H, .group = PHX_GROUP_MACHINE, .value = "N",
     .help = "the number of ranks, which mpirun -np decides; refused if it is another"},
    {.names = {"--expert-parallel", "--enable-expert-parallel"}, .kind = PHX_VALUE_FLAG,
     FIELD(expert_parallel),
     .verbs = G | P | N | A | C | B | S | H, .group = PHX_GROUP_MACHINE,
     .help = "of a mixture of experts: each rank gets whole experts, not a part of all of them"},
    {.names = {"--max-num-seqs"}, .kind = PHX_VALUE_INT, FIELD(max_seqs), .fallback = "8",
     .min = 1, .max = PHX_MAX_SEQS,
     .verbs = G | P | S, .group = PHX_GROUP_MACHINE, .value = "N",
     .help = "texts (or windows) that advance in the same step; more of them wait"},
    {.names = {"--max-num-batched-tokens"}, .kind = PHX_VALUE_INT, FIELD(max_batched_tokens),
     .fallback = "0", .min = 0, .max = 1048576,
     .verbs = G | P | N | A | C | S | H, .group = PHX_GROUP_MACHINE, .value = "N",
     .help = "tokens of a step; longer prompts are read in pieces of this size; 0: 2048 on GPUs, "
             "512 on the CPU"},
    {.names = {"--gpu-memory-utilization"}, .kind = PHX_VALUE_NUMBER,
     FIELD(gpu_memory_utilization), .fallback = "0.9", .min = 0, .max = 1, .above_min = true,
     .verbs = G | P | N | A | C | B | S | H, .group = PHX_GROUP_MACHINE, .value = "X",
     .help = "how full a GPU may become, others' part included; the KV cache takes at most what "
             "the rest leaves; NCCL and recorded graphs need some of what stays free"},
    {.names = {"--enforce-eager"}, .kind = PHX_VALUE_FLAG, FIELD(enforce_eager),
     .verbs = G | P | B | S | H, .group = PHX_GROUP_MACHINE,
     .help = "on GPUs: give each step's operations one by one instead of replaying a graph"},
    {.names = {"--watchdog-timeout"}, .kind = PHX_VALUE_INT, FIELD(watchdog_timeout),
     .fallback = "300", .min = 0, .max = 1000000,
     .verbs = G | P | A | C | B | S | H, .group = PHX_GROUP_MACHINE, .value = "SECONDS",
     .help = "with several ranks or a GPU: a step that does not move for so long, or a rank that "
             "is stopped during the start, ends the job, which says where; 0: wait for ever"},
    {.names = {"--allreduce"}, .kind = PHX_VALUE_CHOICE, FIELD(allreduce), .fallback = "auto",
     .choices = {"auto", "nccl", "symmetric", "fused"},
     .verbs = G | P | N | A | C | B | S | H, .group = PHX_GROUP_MACHINE, .value = "HOW",
     .help = "how GPUs of one node add: ncclAllReduce, the same on symmetric memory, or one "
             "kernel for sum, residual and norm; auto: the fastest at each size"},
    {.env = "PHX_COMMIT", .kind = PHX_VALUE_NAME, FIELD(commit),
     .verbs = B, .group = PHX_GROUP_OUTPUT,
     .help = "what bench calls the commit that was built"},
    {.env = "PHX_CPU_ISA", .kind = PHX_VALUE_NAME, FIELD(cpu_isa),
     .choices = {"portable", "avx2", "avx512", "avx512_bf16"},
     .verbs = G | P | A | C | B | S | H, .group = PHX_GROUP_MACHINE,
     .help = "use no better instructions than these: portable, avx2, avx512 or avx512_bf16"},
};
/* clang-format on */
const size_t phx_n_option_rows = sizeof phx_option_rows / sizeof phx_option_rows[0];

const struct phx_option_row *phx_option_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        for (int j = 0; j < PHX_OPTION_NAMES && phx_option_rows[i].names[j]; j++) {
            const char *known = phx_option_rows[i].names[j];
            if (strlen(known) == bytes && !memcmp(known, name, bytes)) return &phx_option_rows[i];
        }
    }
    return NULL;
}
