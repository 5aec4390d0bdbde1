//! What a guest finds when it starts: its kernel, RAM disk and tables, by the Linux boot protocol for x86-64
//! (Linux's Documentation/arch/x86/boot.rst).

pub mod header;
pub mod load;
pub mod zero_page;
