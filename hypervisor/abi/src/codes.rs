//! Enumerations and flags whose values the specification lists.

/// A value and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The number, or the bits.
    pub value: u64,
    /// Its identifier.
    pub name: &'static str,
    /// Its documentation.
    pub doc: &'static str,
}

/// The values of an argument.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// The type's identifier.
    pub name: &'static str,
    /// Its documentation.
    pub doc: &'static str,
    /// Values, in ascending order.
    pub values: &'static [Code],
}

/// An enumeration with numbers, [`Codes`] of them, and `from_code`, which says which value has a number.
macro_rules! codes {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident: $number:ident {
            $($(#[doc = $value_doc:literal])* $value:ident = $code:literal,)*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[doc = $value_doc])* $value = $code,)*
        }

        impl $name {
            /// What the specification says of it.
            pub const CODES: $crate::codes::Codes = $crate::codes::Codes {
                name: stringify!($name),
                doc: concat!($($doc),*),
                values: &[$($crate::codes::Code {
                    value: $code,
                    name: stringify!($value),
                    doc: concat!($($value_doc),*),
                }),*],
            };

            /// The value with this number, if there is one.
            pub const fn from_code(code: $number) -> Option<$name> {
                match code {
                    $($code => Some($name::$value),)*
                    _ => None,
                }
            }
        }
    };
}

/// Flags ([`bitflags::bitflags!`]) and [`Codes`] of them.
macro_rules! flags {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($extra:ident)])?
        pub struct $name:ident: $number:ident {
            $($(#[doc = $value_doc:literal])* const $value:ident = $code:expr;)*
        }
    ) => {
        bitflags::bitflags! {
            $(#[doc = $doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            $(#[derive($extra)])?
            pub struct $name: $number {
                $($(#[doc = $value_doc])* const $value = $code;)*
            }
        }

        impl $name {
            /// What the specification says of them.
            pub const CODES: $crate::codes::Codes = $crate::codes::Codes {
                name: stringify!($name),
                doc: concat!($($doc),*),
                values: &[$($crate::codes::Code {
                    value: $code,
                    name: stringify!($value),
                    doc: concat!($($value_doc),*),
                }),*],
            };
        }
    };
}

pub(crate) use {codes, flags};
