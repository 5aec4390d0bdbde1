//! Leaves out what this crate does not test.
fn main() {
    println!("cargo:rustc-cfg=schedules");
}
