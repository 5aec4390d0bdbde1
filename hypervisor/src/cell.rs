//! Shared data of kernel objects: who may touch it, as types.

use crate::sync::atomic::{AtomicBool, Ordering};
use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// A value that only one CPU touches at a time: that of the context or queue that holds it, or who has the lock that guards it.
///
/// The kernel runs with interrupts off and never blocks, so an access cannot be interrupted by
/// another one on the same CPU.
#[repr(transparent)]
pub struct CpuCell<T>(Cell<T>);

// SAFETY: whoever embeds a CpuCell upholds that only the owning CPU, or the lock's holder, reads or writes it once the
// object is published. Work on another CPU's object goes through that one's inbox.
unsafe impl<T> Sync for CpuCell<T> {}

impl<T: Copy> CpuCell<T> {
    /// A cell that holds `value`.
    pub const fn new(value: T) -> CpuCell<T> {
        CpuCell(Cell::new(value))
    }

    /// The value.
    #[inline(always)]
    pub fn get(&self) -> T {
        self.0.get()
    }

    /// Replaces the value and returns the one before.
    #[inline(always)]
    pub fn replace(&self, value: T) -> T {
        self.0.replace(value)
    }

    /// Replaces the value.
    #[inline(always)]
    pub fn set(&self, value: T) {
        self.0.set(value);
    }
}

impl<T: Copy> CpuCell<Option<T>> {
    /// Takes the value out.
    #[inline(always)]
    pub fn take(&self) -> Option<T> {
        self.with_mut(Option::take)
    }
}

/// A value that is given once, during boot, and read from then on by all CPUs.
pub struct Given<T> {
    value: UnsafeCell<MaybeUninit<T>>,
    /// Somebody gives the value.
    is_claimed: AtomicBool,
    /// It is there.
    is_given: AtomicBool,
}

// SAFETY: only who claims the cell writes to it, before anybody has a reference; the references are shared.
unsafe impl<T: Send + Sync> Sync for Given<T> {}

impl<T> Given<T> {
    /// No value yet.
    pub const fn new() -> Given<T> {
        Given {
            value: UnsafeCell::new(MaybeUninit::uninit()),
            is_claimed: AtomicBool::new(false),
            is_given: AtomicBool::new(false),
        }
    }

    /// Gives the value that `make` returns, which is made in its place.
    ///
    /// # Panics
    ///
    /// If it was given before.
    pub fn give(&self, make: impl FnOnce() -> T) -> &T {
        assert!(!self.is_claimed.swap(true, Ordering::Relaxed));
        // SAFETY: the first one here; nobody has a reference before `is_given`.
        let given = unsafe { (*self.value.get()).write(make()) };
        self.is_given.store(true, Ordering::Release);
        given
    }

    /// The value, if it was given.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: it was written before `is_given`, and is never written again.
        let value = || unsafe { (*self.value.get()).assume_init_ref() };
        self.is_given.load(Ordering::Acquire).then(value)
    }
}

impl<T> Default for Given<T> {
    fn default() -> Given<T> {
        Given::new()
    }
}

/// The value of a [`CpuCell`], for one expression.
pub struct InPlace<'a, T>(&'a Cell<T>);

impl<T> Deref for InPlace<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: as for `CpuCell::with_mut`; nothing else reaches the cell meanwhile.
        unsafe { &*self.0.as_ptr() }
    }
}

impl<T> DerefMut for InPlace<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut *self.0.as_ptr() }
    }
}

/// Reference to a kernel object.
///
/// It is valid because of how objects end: an object is unlinked from everything that leads to it,
/// and its memory is reused only after every CPU has left the kernel since then
/// ([`crate::epoch`]). So a reference found during a kernel entry is good until that entry ends,
/// and a stored one until the object's destruction removes it.
#[repr(transparent)]
pub struct Ref<T>(NonNull<T>, PhantomData<T>);

impl<T> Clone for Ref<T> {
    #[inline(always)]
    fn clone(&self) -> Ref<T> {
        *self
    }
}

impl<T> Copy for Ref<T> {}

impl<T> PartialEq for Ref<T> {
    #[inline(always)]
    fn eq(&self, other: &Ref<T>) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Ref<T> {}

// SAFETY: a Ref is a shared reference to an object whose fields are atomics, locks or CpuCells.
unsafe impl<T: Sync> Send for Ref<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Ref<T> {}

impl<T> Deref for Ref<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: see the type's documentation; the constructor's caller vouched for the object.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Ref<T> {
    /// The object at `address`.
    ///
    /// # Safety
    /// An initialised `T` is there, and it ends as the type's documentation says.
    #[inline(always)]
    pub const unsafe fn from_address(address: u64) -> Ref<T> {
        // SAFETY: the caller says that an object is there, so the address is not null.
        Ref(unsafe { NonNull::new_unchecked(address as *mut T) }, PhantomData)
    }

    /// Puts `object` at `address`.
    ///
    /// # Safety
    /// The memory there is fresh, large and aligned enough, and the object ends as the type's documentation says.
    #[inline(always)]
    pub unsafe fn place(address: u64, object: T) -> Ref<T> {
        // SAFETY: by the caller's word.
        unsafe {
            (address as *mut T).write(object);
            Ref::from_address(address)
        }
    }

    /// The object's address, which identifies it as long as it lives.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// A reference to an object that never ends.
    pub fn from_static(object: &'static T) -> Ref<T>
    where
        T: 'static,
    {
        Ref(NonNull::from(object), PhantomData)
    }
}

impl<T> CpuCell<T> {
    /// Lets `change` work on the value in place. `change` must not reach this cell again.
    #[inline(always)]
    pub fn with_mut<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: only the owning CPU is here, it cannot be interrupted, and the closures passed
        // in this crate touch nothing but the value and plain data.
        change(unsafe { &mut *self.0.as_ptr() })
    }

    /// The value, for one expression that must not reach this cell again. Unlike what a closure calls, what that calls
    /// becomes part of the caller if it is to.
    #[inline(always)]
    pub fn in_place(&self) -> InPlace<'_, T> {
        InPlace(&self.0)
    }

    /// A cell that holds `value`, of a type that cannot be copied.
    pub const fn from_value(value: T) -> CpuCell<T> {
        CpuCell(Cell::new(value))
    }

    /// The address of the value, for assembly.
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::AssertUnwindSafe;

    #[test]
    fn a_value_is_given_once() {
        let cell = Given::new();
        assert_eq!(cell.get(), None);
        assert_eq!(*cell.give(|| 1), 1);
        assert_eq!(cell.get(), Some(&1));
        let again = std::panic::catch_unwind(AssertUnwindSafe(|| *cell.give(|| 2)));
        assert!(again.is_err());
        assert_eq!(cell.get(), Some(&1));
    }
}
