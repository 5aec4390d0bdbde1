//! What firmware says of the machine, and what it does for the kernel.

pub mod device_tree;
pub mod fdt;
pub mod psci;
pub mod smccc;
