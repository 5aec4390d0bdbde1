//! Interrupt messages between I/O APIC and local APICs, and between local APICs.

/// How an interrupt is delivered (Intel SDM 3A 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The vector, to all destinations.
    Fixed,
    /// The vector, to one of the destinations.
    LowestPriority,
    /// System management interrupt: there is no SMM.
    Smi,
    /// Reserved code.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// Reset of the processor.
    Init,
    /// Start of a processor that was reset; the vector is its first page.
    StartUp,
    /// An interrupt whose vector an 8259 would give: there is none.
    External,
}

impl Delivery {
    /// The mode with this code; only the lower three bits count.
    pub const fn from_code(code: u32) -> Delivery {
        match code & 7 {
            0 => Delivery::Fixed,
            1 => Delivery::LowestPriority,
            2 => Delivery::Smi,
            3 => Delivery::Reserved,
            4 => Delivery::Nmi,
            5 => Delivery::Init,
            6 => Delivery::StartUp,
            _ => Delivery::External,
        }
    }
}

/// Which local APICs are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The APIC with this ID; all ones of the sender's width: every one.
    Physical(u32),
    /// Those whose logical ID matches.
    Logical(u32),
    /// The sender.
    Itself,
    /// Every one.
    All,
    /// Every one but the sender.
    Others,
}

/// An interrupt on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who gets it.
    pub destination: Destination,
    /// How.
    pub delivery: Delivery,
    /// The vector.
    pub vector: u8,
    /// Level-triggered: its EOI goes to the I/O APIC.
    pub level: bool,
}
