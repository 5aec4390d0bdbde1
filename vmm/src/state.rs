//! A vCPU's state page: typed, volatile access. The fields are the architecture's.
use core::ptr::NonNull;

/// The state page of a vCPU, shared with the kernel. A value is only as fresh as the last exit whose portal
/// saves its group (`exits` of the architecture).
#[derive(Debug)]
pub struct Page<T> {
    page: NonNull<T>,
}

// SAFETY: all access is volatile, to plain numbers; the handle may move to the vCPU's handler thread.
unsafe impl<T> Send for Page<T> {}

impl<T> Page<T> {
    /// The state page at `address`.
    ///
    /// # Safety
    /// A `T` of plain numbers is mapped there as long as the value lives, and nothing else in this program uses it.
    pub unsafe fn new(address: usize) -> Page<T> {
        let page = core::ptr::with_exposed_provenance_mut(address);
        Page { page: NonNull::new(page).unwrap_or(NonNull::dangling()) }
    }

    /// Where it is.
    #[inline(always)]
    pub(crate) fn pointer(&self) -> *mut T {
        self.page.as_ptr()
    }
}

/// Accessors of fields of a state page.
macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident $set:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $get(&self) -> $type {
            // SAFETY: `new`'s promise; every bit pattern is a value of the type.
            unsafe { (&raw const (*self.pointer()).$get).read_volatile() }
        }

        #[doc = concat!("Sets `", stringify!($get), "`; loaded when the reply names its group.")]
        #[inline(always)]
        pub fn $set(&mut self, value: $type) {
            // SAFETY: `new`'s promise.
            unsafe { (&raw mut (*self.pointer()).$get).write_volatile(value) }
        }
    )*};
}
pub(crate) use fields;

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A zeroed state page that lives for ever.
    pub fn page<T: Default>() -> Page<T> {
        let state = Box::leak(Box::new(T::default()));
        // SAFETY: the state lives for ever and is reachable only through the result.
        unsafe { Page::new((&raw mut *state).expose_provenance()) }
    }
}
