//! Numbers that look random, and numbers at which mistakes are made.

/// A generator (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

/// Where sizes, addresses and counts end or overflow.
pub const EDGES: &[u64] = &[
    0,
    1,
    2,
    63,
    64,
    503,
    504,
    505,
    4095,
    4096,
    4097,
    0x1f_f000,
    0x20_0000,
    0x20_1000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_f000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 39,
    1 << 40,
    (1 << 40) + 1,
    abi::USER_END - 1,
    abi::USER_END,
    abi::USER_END + 1,
    abi::USER_END - 4096,
    abi::USER_END + 4096,
    1 << 48,
    0x8000_0000_0000_0000,
    0xffff_7fff_ffff_ffff,
    0xffff_8000_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_e000,
    0xffff_ffff_ffff_f000,
    u64::MAX - 4095,
    u64::MAX - 1,
    u64::MAX,
];

/// A number in which each bit depends on all bits of `value`.
pub const fn mix(value: u64) -> u64 {
    let z = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Random {
    /// The next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `choices`, which is not empty.
    pub fn pick(&mut self, choices: &[u64]) -> u64 {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A number at or near which something ends.
    pub fn edge(&mut self) -> u64 {
        match self.below(8) {
            0 => self.word(),
            1 => 1 << self.below(64),
            2 => self.pick(EDGES).wrapping_sub(self.below(3)),
            _ => self.pick(EDGES),
        }
    }
}
