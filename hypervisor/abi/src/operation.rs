//! What an operation is, and how the table of them becomes types, a decoder and a specification.

use crate::argument::{Argument, Form, Words};
use crate::status::Status;
use crate::{Op, Tag};

/// A system call with its arguments.
pub trait Operation: Registers {
    /// Its number.
    const OP: Op;
    /// What it returns if it succeeds.
    type Results: Registers;

    /// The tag and the argument registers; those that are not used are 0.
    #[inline(always)]
    fn encode(&self) -> (Tag, Words) {
        let mut words = [0; 9];
        self.store(&mut words);
        (Tag::new(Self::OP, 0), words)
    }
}

/// Things in registers.
pub trait Registers: Sized {
    /// What they are.
    const FIELDS: &'static [Field];

    /// The registers whose upper half has to be 0, a bit for each.
    const NARROW: u16 = Field::narrow(Self::FIELDS);

    /// From the registers; `None` if one of them holds no such thing.
    fn decode(words: &Words) -> Option<Self>;

    /// The same, once the registers in [`Registers::NARROW`] have been looked at.
    fn load(words: &Words) -> Option<Self>;

    /// Calls `set` for each register that they take, with what it holds then.
    fn each(&self, set: impl FnMut(usize, u64));

    /// Into the registers that they take.
    #[inline(always)]
    fn store(&self, words: &mut Words) {
        self.each(|register, word| words[register] = word);
    }
}

/// Whether the upper half of the registers whose bits are set in `narrow` is 0.
pub fn are_narrow(words: &Words, narrow: u16) -> bool {
    let mut all = 0;
    for (i, &word) in words.iter().enumerate() {
        if narrow >> i & 1 != 0 {
            all |= word;
        }
    }
    all >> 32 == 0
}

impl Registers for () {
    const FIELDS: &'static [Field] = &[];

    #[inline(always)]
    fn decode(_words: &Words) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn load(_words: &Words) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn each(&self, _set: impl FnMut(usize, u64)) {}
}

/// How long an operation keeps its CPU from others. Waiting for somebody else is no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A bounded number of steps.
    Constant,
    /// Grows with what the text says, in one go.
    Linear(&'static str),
    /// Grows with what the text says, in short steps: between them the system call restarts through user mode.
    Steps(&'static str),
}

/// An argument or result, for the specification.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its first register.
    pub register: usize,
    /// Number of registers.
    pub words: usize,
    /// [`Argument::NARROW`].
    pub narrow: bool,
    /// Its name.
    pub name: &'static str,
    /// Its documentation.
    pub doc: &'static str,
    /// Its type.
    pub form: Form,
}

impl Field {
    /// A field of type `T`.
    pub const fn new<T: Argument>(register: usize, name: &'static str, doc: &'static str) -> Field {
        Field { register, words: T::WORDS, narrow: T::NARROW, name, doc, form: T::FORM }
    }

    /// The registers of those of these fields that are narrow, a bit for each.
    pub const fn narrow(fields: &[Field]) -> u16 {
        let (mut narrow, mut i) = (0, 0);
        while i < fields.len() {
            narrow |= (fields[i].narrow as u16) << fields[i].register;
            i += 1;
        }
        narrow
    }

    /// The registers that these fields take, a bit for each. No two take the same one.
    pub const fn taken(fields: &[Field]) -> u16 {
        let (mut taken, mut i) = (0, 0);
        while i < fields.len() {
            let mine = ((1 << fields[i].words) - 1) << fields[i].register;
            assert!(taken & mine == 0 && mine < 1 << 9, "a register holds one thing");
            taken |= mine;
            i += 1;
        }
        taken
    }
}

/// An operation, for the specification.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// The operation.
    pub op: Op,
    /// What it does.
    pub doc: &'static str,
    /// Arguments.
    pub arguments: &'static [Field],
    /// Results.
    pub results: &'static [Field],
    /// What has to be true, beside what the types of the arguments say.
    pub before: &'static [&'static str],
    /// What is true after a success.
    pub after: &'static [&'static str],
    /// Statuses, and when they are returned beside what they always mean: a sentence that can also follow others.
    pub errors: &'static [(Status, &'static str)],
    /// What it costs.
    pub cost: Cost,
}

/// A struct of which each field is in registers of its own.
macro_rules! registers {
    ($(#[doc = $doc:expr])* $name:ident { $($(#[doc = $field_doc:literal])* $at:literal $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $type,)*
        }

        const _: u16 = Field::taken($name::FIELDS);

        impl Registers for $name {
            const FIELDS: &'static [Field] = &[
                $(Field::new::<$type>($at, stringify!($field), concat!($($field_doc),*)),)*
            ];

            #[inline(always)]
            fn decode(_words: &Words) -> Option<$name> {
                let narrow = 0u64 $(| if <$type as Argument>::NARROW { _words[$at] } else { 0 })*;
                if narrow >> 32 == 0 { $name::load(_words) } else { None }
            }

            #[inline(always)]
            fn load(_words: &Words) -> Option<$name> {
                Some($name {
                    $($field: <$type as Argument>::load(&_words[$at..$at + <$type as Argument>::WORDS])?,)*
                })
            }

            #[inline(always)]
            fn each(&self, mut _set: impl FnMut(usize, u64)) {
                $({
                    let mut words = [0; <$type as Argument>::WORDS];
                    self.$field.store(&mut words);
                    for (i, word) in words.into_iter().enumerate() {
                        _set($at + i, word);
                    }
                })*
            }
        }
    };
}

/// The table of operations: for each its number, arguments and results with their registers, what has to be true before and
/// is true after it, the statuses that it returns beside those that the types of its arguments imply, the
/// argument that names who pays, and the cost.
macro_rules! operations {
    (@impl $name:ident) => {
        impl Operation for $name {
            const OP: Op = Op::$name;
            type Results = ();
        }
    };
    (@impl $name:ident $results:ident) => {
        impl Operation for $name {
            const OP: Op = Op::$name;
            type Results = $results;
        }
    };
    ($(
        $(#[doc = $doc:literal])*
        $name:ident = $number:literal {
            $($(#[doc = $field_doc:literal])* $at:literal $field:ident: $type:ty,)*
        }
        $(returns $results:ident {
            $($(#[doc = $result_doc:literal])* $result_at:literal $result:ident: $result_type:ty,)*
        })?
        $(before: $($before:literal)+;)?
        $(after: $($after:literal)+;)?
        $(errors: $($status:ident $when:literal)+;)?
        $(pays: $payer:literal;)?
        cost: $cost:ident $(($cost_of:literal))?;
    )*) => {
        /// Number of a system call. The structs of this module have the arguments of each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Op { $($(#[doc = $doc])* $name = $number,)* }

        impl Op {
            /// Every operation, in ascending order of number.
            pub const ALL: &'static [Op] = &[$(Op::$name,)*];

            /// Its identifier.
            pub const fn name(self) -> &'static str {
                match self { $(Op::$name => stringify!($name),)* }
            }

            /// The operation with this number, if there is one.
            pub const fn from_code(code: u8) -> Option<Op> {
                match code {
                    $($number => Some(Op::$name),)*
                    _ => None,
                }
            }

            /// The statuses that it can return.
            pub const fn statuses(self) -> StatusSet {
                match self {
                    $(Op::$name => const {
                        // Reserved bits of the tag.
                        let every = StatusSet::of(&[Status::Success, Status::BadArgument]);
                        let errors = StatusSet::of(&[$($(Status::$status,)+)?]);
                        let quota = StatusSet::of(&[$({
                            let _: u64 = $payer;
                            Status::Quota
                        })?]);
                        let implied = StatusSet::EMPTY $(.union(<$type as Argument>::STATUSES))*;
                        every.union(errors).union(quota).union(implied)
                    },)*
                }
            }

            /// Which argument names whose quota [`Status::Quota`] says to be exhausted, as `a1` does then: the
            /// number of a register with a domain, or with a space, whose payer it is; 0 for an operation that charges
            /// nobody.
            pub const fn payer(self) -> u64 {
                match self { $(Op::$name => 0 $(+ $payer)?,)* }
            }

            /// Whether the registers hold arguments of this operation.
            pub fn check(self, words: &Words) -> Result<(), Status> {
                let arguments = match self { $(Op::$name => $name::decode(words).map(|_| ()),)* };
                arguments.ok_or(Status::BadArgument)
            }

            /// [`Registers::NARROW`] of its arguments.
            pub const fn narrow(self) -> u16 {
                match self { $(Op::$name => $name::NARROW,)* }
            }

            /// All that the table says of it.
            pub const fn description(self) -> &'static Description {
                match self {
                    $(Op::$name => const {
                        &Description {
                            op: Op::$name,
                            doc: concat!($($doc),*),
                            arguments: $name::FIELDS,
                            results: <$name as Operation>::Results::FIELDS,
                            before: &[$($($before,)+)?],
                            after: &[$($($after,)+)?],
                            errors: &[$($((Status::$status, $when),)+)?],
                            cost: Cost::$cost $(($cost_of))?,
                        }
                    },)*
                }
            }
        }

        $(
            registers! {
                #[doc = concat!("Arguments of [`Op::", stringify!($name), "`].")]
                $name { $($(#[doc = $field_doc])* $at $field: $type,)* }
            }

            $(registers! {
                #[doc = concat!("Results of [`Op::", stringify!($name), "`].")]
                $results { $($(#[doc = $result_doc])* $result_at $result: $result_type,)* }
            })?

            operations!(@impl $name $($results)?);
        )*
    };
}

pub(crate) use {operations, registers};
