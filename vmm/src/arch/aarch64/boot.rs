//! What a guest finds when it starts: its kernel, RAM disk and device tree, by the Linux boot protocol for arm64
//! (Linux's Documentation/arch/arm64/booting.rst).

pub mod header;
pub mod load;
