//! What depends on the guest's processor. Each architecture has a folder with the same interface:
//!
//! | module | content |
//! | --- | --- |
//! | `setup` | the VM that an environment describes; on the machine only |
//! | `vm` | what its vCPUs share |
//! | `boot` | what the guest finds in its memory when it starts |
//! | `vcpu` | the answers to a vCPU's exits |
//! | `exits` | the state that each kind of exit saves |
//! | `state` | the state page |
//! | `clock` | the guest's time |
//!
//! What a program for the machine does not need is compiled for tests on the developer's machine alone.

#[cfg(any(target_arch = "aarch64", not(target_os = "none")))]
pub mod aarch64;
#[cfg(any(target_arch = "x86_64", not(target_os = "none")))]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64 as current;
#[cfg(target_arch = "x86_64")]
pub use x86_64 as current;
