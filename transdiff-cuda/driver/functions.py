#!/usr/bin/env python3
"""Writes functions.inc and codes.inc from the declarations of cust_raw, whose version Cargo.lock has:

    driver/functions.py ~/.cargo/registry/src/*/cust_raw-0.11.3/src/cuda.rs
"""
import pathlib, re, sys
src = open(sys.argv[1]).read()
alias = dict(re.findall(r'pub type (\w+) =\s*([^;]+);', src))
alias.update({b: a for a, b in re.findall(r'pub use self::(\w+) as (\w+);', src)})
enums = {n for n in re.findall(r'pub enum (\w+)', src)}
INT = {'c_int': 'int', 'c_uint': 'unsigned', 'c_ulonglong': 'unsigned long long', 'c_ulong': 'unsigned long',
       'c_longlong': 'long long', 'c_uchar': 'unsigned char', 'c_ushort': 'unsigned short', 'c_char': 'char',
       'usize': 'size_t', 'u8': 'unsigned char', 'u32': 'unsigned', 'u64': 'unsigned long long', 'i32': 'int', 'f32': 'float', 'c_float': 'float', 'CUipcEventHandle': 'H64', 'CUipcMemHandle': 'H64'}
def ctype(t):
    t = t.strip(); b = t.replace('::std::os::raw::', '').replace('::std::option::', '')
    if b.startswith('*') or b.startswith('Option<') or 'extern "C" fn' in b: return 'void *'
    if b in INT: return INT[b]
    if t in enums or b in enums: return 'unsigned'
    if b in alias: return ctype(alias[b])
    return None
codes = sorted({int(x) for x in re.findall(r'^    CUDA_\w+ = (\d+),', re.search(r'pub enum cudaError_enum \{(.*?)\n\}', src, re.S).group(1), re.M)})
HEAD = '/* From cust_raw 0.11.3, by functions.py; do not edit. */'
here = pathlib.Path(__file__).parent
(here / 'codes.inc').write_text(HEAD + '\n#define KNOWN_CODES(C) ' + ' '.join(f'C({c})' for c in codes) + '\n')
lines = [HEAD]
skipped = []
for name, args in re.findall(r'pub fn (cu\w+)\((.*?)\)\s*->\s*CUresult;', src, re.S):
    ps = [a.split(':', 1) for a in re.split(r',(?![^<(]*[>)])', args) if a.strip()]
    ts = [ctype(t) for _, t in ps]
    if None in ts: skipped.append(name); continue
    P = ', '.join(f'{t} a{i}' for i, t in enumerate(ts)) or 'void'
    A = ', '.join(f'a{i}' for i in range(len(ts)))
    lines.append(f'F({name}, ({P}), ({A}), {"a1" if name.startswith("cuGetError") else 0})')
assert not skipped, skipped
(here / 'functions.inc').write_text('\n'.join(lines) + '\n')
