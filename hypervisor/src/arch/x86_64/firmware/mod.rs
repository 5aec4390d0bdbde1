//! What firmware says of the machine.

pub mod acpi;
