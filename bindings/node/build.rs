//! Tells the linker what a native module of Node leaves to the process that loads it.

fn main() {
    napi_build::setup();
}
