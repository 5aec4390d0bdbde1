//! The bootable kernel: everything is in the library.
#![no_std]
#![no_main]

use hypervisor as _;
