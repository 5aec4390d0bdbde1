//! Kinds of objects as types, for [`crate::argument::Cap`].

use crate::cap::Kind;

/// What a capability argument can name.
pub trait Target {
    /// The kinds; none listed: any.
    const KINDS: &'static [Kind];
}

/// What a capability argument names if it is always of one kind.
pub trait Single: Target {
    /// The kind.
    const KIND: Kind;
}

macro_rules! kinds {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("[`Kind::", stringify!($name), "`].")]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name;

            impl Target for $name {
                const KINDS: &'static [Kind] = &[Kind::$name];
            }

            impl Single for $name {
                const KIND: Kind = Kind::$name;
            }
        )*

        /// What can be delegated: any kind but [`Kind::Mapping`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Delegable;

        impl Target for Delegable {
            const KINDS: &'static [Kind] = &[$(Kind::$name),*];
        }
    };
}

kinds! {
    Domain Space Thread Vcpu Sched Portal Notification Memory Interrupt Log Platform Time
}

/// What can have a scheduling context: [`Kind::Thread`] or [`Kind::Vcpu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context;

impl Target for Context {
    const KINDS: &'static [Kind] = &[Kind::Thread, Kind::Vcpu];
}

/// Any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Any;

impl Target for Any {
    const KINDS: &'static [Kind] = &[];
}
