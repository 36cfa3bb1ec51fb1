"""Prints the PTX of kernels: python3 -c SCRIPT LIBNVRTC SOURCE OPTION..."""

import ctypes
import os
import sys

library, source, *options = sys.argv[1:]
nvrtc = ctypes.CDLL(library)
program = ctypes.c_void_p()


def call(name, *args):
    code = getattr(nvrtc, name)(*args)
    if code != 0:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        sys.exit(f"{name}: {nvrtc.nvrtcGetErrorString(code).decode()}")


def text_of(what):
    size = ctypes.c_size_t()
    call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    call(f"nvrtcGet{what}", program, text)
    return text.value


with open(source, "rb") as file:
    code = file.read()
name = os.path.basename(source).encode()
call("nvrtcCreateProgram", ctypes.byref(program), code, name, 0, None, None)
arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
try:
    call("nvrtcCompileProgram", program, len(options), arguments)
finally:
    sys.stderr.buffer.write(text_of("ProgramLog"))
sys.stdout.buffer.write(text_of("PTX"))
