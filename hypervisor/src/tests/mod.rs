//! Tests of the portable core: its system calls, on CPUs and in a time that the test controls.

mod agreement;
mod bindings;
mod caching;
mod cyclic;
mod device_spaces;
mod donation;
mod doorbells;
mod exploration;
mod foreign;
mod histories;
mod ipc;
mod items;
mod lifetime;
mod migration;
mod model;
mod quota;
mod scheduling;
mod shootdown;
mod signals;
mod statuses;
mod steps;
mod system;
mod vcpu;
mod world;

pub use world::{Object, Running};
