//! Boots real images on emulators and checks what a user would see.

mod bochs;
mod bundles;
mod consoles;
mod direct;
mod endings;
mod failures;
mod hostile;
mod registers;
mod sizes;
