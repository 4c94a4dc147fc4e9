//! The binary. It defines the C `main` itself: Rust's own start-up code sets SIGPIPE to "ignore" and opens closed standard descriptors, and both would be
//! inherited by the runtime below and by the containers that it starts.
#![no_main]
#![allow(unsafe_code)]

/// Entered by the C library.
// SAFETY: the only symbol of this name in the program; its signature is one that C allows for `main`. The arguments are read through `std::env`.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    godwit_runtime::entry::run()
}
