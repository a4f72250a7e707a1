//! Any bytes, where the egress proxy expects a request.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nagaya_egress::fuzzing::request(bytes));
