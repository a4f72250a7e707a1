//! Any bytes, where the egress proxy expects a TLS client's first message.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nagaya_egress::fuzzing::hello(bytes));
