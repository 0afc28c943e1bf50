//! System calls that rustix does not wrap. The only module that may hold `unsafe` code.
