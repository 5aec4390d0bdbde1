//! The root task: the first program. It builds the system that the bundle describes and nothing else, hands
//! each program the capabilities that the description gives it, notices when a program or VM ends, and powers
//! the machine off after the last VM.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod acpi;
pub mod arch;
pub mod desk;
pub mod draft;
pub mod frames;
pub mod guest_ram;
pub mod last_resort;
pub mod power;
pub mod root;
pub mod system;
