//! Addresses: one type for each of the spaces that the kernel deals in.

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further, or `None` past the end of the 64-bit range.
            pub fn checked_add(self, bytes: u64) -> Option<$name> {
                self.0.checked_add(bytes).map($name)
            }

            /// The address `bytes` further, modulo 2^64.
            pub const fn offset(self, bytes: u64) -> $name {
                $name(self.0.wrapping_add(bytes))
            }

            /// Whether the address is a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&abi::text::Hex(self.0), f)
            }
        }
    };
}

address!(
    /// A physical address of the machine.
    HostPhys
);
address!(
    /// A virtual address: kernel or native program.
    HostVirt
);
address!(
    /// A guest-physical address of a VM.
    GuestPhys
);
