//! Types of arguments and results: which words they are, and which words are none.

use crate::codes::Codes;
use crate::kind::Target;
use crate::status::StatusSet;
use crate::syscall::{
    Caching, DelegateFlags, DoorbellKind, PowerAction, SpaceKind, ThreadFlags, TriggerMode,
};
use crate::utcb::REGISTER_WORDS;
use crate::{Kind, LOG_CHUNK, Rights, Selector, Status};
use core::marker::PhantomData;

/// The registers `a0` to `a8`.
pub type Words = [u64; 9];

/// What takes one register or several.
pub trait Argument: Sized {
    /// Number of registers.
    const WORDS: usize = 1;
    /// Its register has 0 in the upper half. Who decodes looks at that for all such registers at once.
    const NARROW: bool = false;
    /// For the specification.
    const FORM: Form;
    /// What an operation can return because it has such an argument, beside [`Status::BadArgument`].
    const STATUSES: StatusSet = StatusSet::EMPTY;

    /// From the registers, of which there are [`Argument::WORDS`]; `None` if they hold no such thing. If it is
    /// [`Argument::NARROW`], the upper half was looked at before.
    fn load(words: &[u64]) -> Option<Self>;

    /// Into the registers, of which there are [`Argument::WORDS`].
    fn store(&self, words: &mut [u64]);
}

/// How an argument reads in the specification.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Any word.
    Word,
    /// So many words of any value.
    Words(usize),
    /// A number from the first to the second.
    Number(u64, u64),
    /// An address that is a multiple of the page size, and not 0.
    Page,
    /// 0 or 1.
    Boolean,
    /// A selector of the caller's.
    Selector,
    /// A capability.
    Capability {
        /// Kinds, any if none is listed.
        kinds: &'static [Kind],
        /// Rights that it needs.
        rights: Rights,
    },
    /// A slot for a new capability.
    Destination,
    /// One of these values.
    OneOf(&'static Codes),
    /// A set of these flags.
    SetOf(&'static Codes),
    /// Several things in one word: first and last bit of each.
    Packed(&'static [(u32, u32, Form)]),
    /// A count and bytes.
    Bytes(usize),
}

impl Argument for u64 {
    const FORM: Form = Form::Word;

    #[inline(always)]
    fn load(words: &[u64]) -> Option<u64> {
        Some(words[0])
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words[0] = *self;
    }
}

impl Argument for u32 {
    const NARROW: bool = true;
    const FORM: Form = Form::Number(0, u32::MAX as u64);

    #[inline(always)]
    fn load(words: &[u64]) -> Option<u32> {
        Some(words[0] as u32)
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words[0] = (*self).into();
    }
}

impl Argument for bool {
    const FORM: Form = Form::Boolean;

    #[inline(always)]
    fn load(words: &[u64]) -> Option<bool> {
        match words[0] {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words[0] = (*self).into();
    }
}

/// A message in registers.
impl Argument for [u64; REGISTER_WORDS] {
    const WORDS: usize = REGISTER_WORDS;
    const FORM: Form = Form::Words(REGISTER_WORDS);

    #[inline(always)]
    fn load(words: &[u64]) -> Option<[u64; REGISTER_WORDS]> {
        // So that nothing is copied where nobody looks at it.
        match *words {
            [a, b, c, d, e, f, g, h] => Some([a, b, c, d, e, f, g, h]),
            _ => None,
        }
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words.copy_from_slice(self);
    }
}

impl Argument for Selector {
    const NARROW: bool = true;
    const FORM: Form = Form::Selector;

    #[inline(always)]
    fn load(words: &[u64]) -> Option<Selector> {
        u32::load(words).map(Selector)
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        self.0.store(words);
    }
}

/// Names of rights for the parameter of [`Cap`].
pub mod right {
    use crate::Rights;

    /// None.
    pub const NONE: u16 = 0;
    /// [`Rights::READ`].
    pub const READ: u16 = Rights::READ.bits();
    /// [`Rights::WRITE`].
    pub const WRITE: u16 = Rights::WRITE.bits();
    /// [`Rights::WAIT`].
    pub const WAIT: u16 = Rights::WAIT.bits();
    /// [`Rights::SIGNAL`].
    pub const SIGNAL: u16 = Rights::SIGNAL.bits();
    /// [`Rights::CALL`].
    pub const CALL: u16 = Rights::CALL.bits();
    /// [`Rights::CREATE`].
    pub const CREATE: u16 = Rights::CREATE.bits();
    /// [`Rights::INSTALL`].
    pub const INSTALL: u16 = Rights::INSTALL.bits();
    /// [`Rights::CONTROL`].
    pub const CONTROL: u16 = Rights::CONTROL.bits();
    /// [`Rights::DELEGATE`].
    pub const DELEGATE: u16 = Rights::DELEGATE.bits();
}

/// Selector of a capability of the caller's to what `T` says, with the rights `RIGHTS`. Whether there is one, the
/// kernel finds out when it looks it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap<T, const RIGHTS: u16> {
    selector: Selector,
    target: PhantomData<T>,
}

impl<T, const RIGHTS: u16> Cap<T, RIGHTS> {
    /// Rights that the capability needs.
    pub const RIGHTS: Rights = Rights::from_bits_retain(RIGHTS);

    /// The capability that `selector` names.
    pub const fn new(selector: Selector) -> Cap<T, RIGHTS> {
        let target = PhantomData;
        Cap { selector, target }
    }

    /// Its selector.
    #[inline(always)]
    pub const fn selector(self) -> Selector {
        self.selector
    }
}

impl<T, const RIGHTS: u16> From<Selector> for Cap<T, RIGHTS> {
    fn from(selector: Selector) -> Cap<T, RIGHTS> {
        Cap::new(selector)
    }
}

impl<T: Target, const RIGHTS: u16> Argument for Cap<T, RIGHTS> {
    const NARROW: bool = true;
    const FORM: Form = Form::Capability { kinds: T::KINDS, rights: Self::RIGHTS };
    const STATUSES: StatusSet = {
        let found = StatusSet::of(&[Status::BadCapability]);
        if RIGHTS == 0 { found } else { found.with(Status::Denied) }
    };

    #[inline(always)]
    fn load(words: &[u64]) -> Option<Self> {
        Selector::load(words).map(Cap::new)
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        self.selector.store(words);
    }
}

/// An empty slot for a new capability, in the caller's table unless the operation says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination(pub Selector);

impl From<Selector> for Destination {
    fn from(selector: Selector) -> Destination {
        Destination(selector)
    }
}

impl Argument for Destination {
    const NARROW: bool = true;
    const FORM: Form = Form::Destination;
    const STATUSES: StatusSet =
        StatusSet::of(&[Status::BadSelector, Status::Occupied, Status::Dead]);

    #[inline(always)]
    fn load(words: &[u64]) -> Option<Destination> {
        Selector::load(words).map(Destination)
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        self.0.store(words);
    }
}

/// A number from `FIRST` to `LAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number<const FIRST: u64, const LAST: u64>(u64);

impl<const FIRST: u64, const LAST: u64> Number<FIRST, LAST> {
    /// `value`, if it is in the range.
    pub const fn new(value: u64) -> Option<Self> {
        if FIRST <= value && value <= LAST { Some(Number(value)) } else { None }
    }

    /// The number.
    #[inline(always)]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const FIRST: u64, const LAST: u64> Argument for Number<FIRST, LAST> {
    const FORM: Form = Form::Number(FIRST, LAST);

    #[inline(always)]
    fn load(words: &[u64]) -> Option<Self> {
        Number::new(words[0])
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words[0] = self.0;
    }
}

/// Address in a host space that instructions can be at.
pub type CodeAddress = Number<0, { crate::USER_END - 1 }>;
/// Address in a host space, or its end.
pub type StackAddress = Number<0, { crate::USER_END }>;

/// Address of a page in a host space: a multiple of the page size, and not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAddress(u64);

impl PageAddress {
    /// The page at `address`, if one can be there.
    pub const fn new(address: u64) -> Option<PageAddress> {
        let aligned = address & (crate::PAGE_SIZE as u64 - 1) == 0;
        if aligned && address != 0 && address < crate::USER_END {
            Some(PageAddress(address))
        } else {
            None
        }
    }

    /// The address.
    #[inline(always)]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Argument for PageAddress {
    const FORM: Form = Form::Page;

    #[inline(always)]
    fn load(words: &[u64]) -> Option<PageAddress> {
        PageAddress::new(words[0])
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words[0] = self.0;
    }
}

/// Implements [`Argument`] for enumerations.
macro_rules! one_of {
    ($($name:ident)*) => {
        $(impl Argument for $name {
            const FORM: Form = Form::OneOf(&$name::CODES);

            #[inline(always)]
            fn load(words: &[u64]) -> Option<$name> {
                $name::from_code(words[0])
            }

            #[inline(always)]
            fn store(&self, words: &mut [u64]) {
                words[0] = *self as u64;
            }
        })*
    };
}

one_of! { Caching DoorbellKind PowerAction SpaceKind TriggerMode }

/// Implements [`Argument`] for flags.
macro_rules! set_of {
    ($($name:ident: $number:ident)*) => {
        $(impl Argument for $name {
            const FORM: Form = Form::SetOf(&$name::CODES);

            #[inline(always)]
            fn load(words: &[u64]) -> Option<$name> {
                $number::try_from(words[0]).ok().and_then($name::from_bits)
            }

            #[inline(always)]
            fn store(&self, words: &mut [u64]) {
                words[0] = self.bits().into();
            }
        })*
    };
}

set_of! { DelegateFlags: u64 Rights: u16 ThreadFlags: u64 }

/// Where and how a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Number of its CPU.
    pub cpu: u32,
    /// Flags.
    pub flags: ThreadFlags,
}

impl Argument for Placement {
    const FORM: Form = Form::Packed(&[(0, 31, Form::Word), (32, 63, ThreadFlags::FORM)]);

    #[inline(always)]
    fn load(words: &[u64]) -> Option<Placement> {
        Some(Placement {
            cpu: words[0] as u32,
            flags: ThreadFlags::load(&[words[0] & !u64::from(u32::MAX)])?,
        })
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words[0] = u64::from(self.cpu) | self.flags.bits();
    }
}

/// What a mapping allows, and how it is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// `READ`, with `WRITE` and `EXEC` or without.
    pub rights: Rights,
    /// How it is cached.
    pub caching: Caching,
}

impl Argument for Access {
    const FORM: Form = Form::Packed(&[(0, 15, Rights::FORM), (16, 63, Caching::FORM)]);

    #[inline(always)]
    fn load(words: &[u64]) -> Option<Access> {
        Some(Access {
            rights: Rights::load(&[words[0] & 0xffff])?,
            caching: Caching::load(&[words[0] >> Caching::SHIFT])?,
        })
    }

    #[inline(always)]
    fn store(&self, words: &mut [u64]) {
        words[0] = u64::from(self.rights.bits()) | self.caching.bits();
    }
}

/// Bytes of the log: a word with their number, and the words that they are packed into, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBytes {
    count: usize,
    bytes: [u8; LOG_CHUNK],
}

impl LogBytes {
    /// As many of `bytes` as there is room for, from the first on.
    pub fn new(bytes: &[u8]) -> LogBytes {
        let count = bytes.len().min(LOG_CHUNK);
        let mut chunk = [0; LOG_CHUNK];
        chunk[..count].copy_from_slice(&bytes[..count]);
        let bytes = chunk;
        LogBytes { count, bytes }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.count]
    }
}

impl Argument for LogBytes {
    const WORDS: usize = 1 + LOG_CHUNK / 8;
    const FORM: Form = Form::Bytes(LOG_CHUNK);

    fn load(words: &[u64]) -> Option<LogBytes> {
        let count = usize::try_from(words[0]).ok().filter(|&count| count <= LOG_CHUNK)?;
        let mut bytes = [0; LOG_CHUNK];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(&words[1..]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes[count..].fill(0);
        Some(LogBytes { count, bytes })
    }

    fn store(&self, words: &mut [u64]) {
        words[0] = self.count as u64;
        for (word, chunk) in words[1..].iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
    }
}
