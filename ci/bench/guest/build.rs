//! Hands the guest's linker script to the linker.
fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rerun-if-changed={dir}/guest.ld");
        println!("cargo:rustc-link-arg-bins=-T{dir}/guest.ld");
    }
}
