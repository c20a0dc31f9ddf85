# cmake -DIN=FILE -DOUT=FILE.c -DNAME=phx_x -DHEADER=room/x.h -P embed.cmake: the bytes of a file as
# NAME[] and NAME_bytes, which the header declares.
file(READ ${IN} bytes HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
file(WRITE ${OUT} "#include \"${HEADER}\"\n\nconst unsigned char ${NAME}[] = {\n${bytes}};\n"
    "const size_t ${NAME}_bytes = sizeof ${NAME};\n")
