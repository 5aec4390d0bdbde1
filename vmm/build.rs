//! Links the monitor by the memory layout of user programs.

fn main() {
    println!("cargo::rerun-if-changed=rt/user.ld");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bin=monitor=-T{folder}/rt/user.ld");
    }
}
