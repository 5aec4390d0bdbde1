//! Boots real images on emulators and checks what a user would see.

#[macro_use]
mod targets;

mod bundles;
mod consoles;
mod direct;
mod doorbells;
mod endings;
mod failures;
mod figures;
mod guest;
mod hostile;
mod kernels;
mod latency;
mod registers;
mod samples;
mod shares;
mod sizes;
mod throughput;
mod vcpus;
