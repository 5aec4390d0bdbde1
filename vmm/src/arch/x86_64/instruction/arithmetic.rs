//! Results and flags of the arithmetic instructions that are emulated (Intel SDM 1 3.4.3.1).
use crate::bits::truncate;

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
/// The flags that arithmetic sets.
const ALL: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// An operation on two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sum.
    Add,
    /// Difference; also of CMP.
    Sub,
    /// Conjunction; also of TEST.
    And,
    /// Disjunction.
    Or,
    /// Exclusive disjunction.
    Xor,
}

/// Result of `a operation b` and the new flags.
pub fn compute(operation: Operation, a: u64, b: u64, size: u8, flags: u64) -> (u64, u64) {
    let (a, b) = (truncate(a, size), truncate(b, size));
    let top = 1u64 << (u32::from(size) * 8 - 1);
    let result = truncate(
        match operation {
            Operation::Add => a.wrapping_add(b),
            Operation::Sub => a.wrapping_sub(b),
            Operation::And => a & b,
            Operation::Or => a | b,
            Operation::Xor => a ^ b,
        },
        size,
    );
    let mut new = flags & !ALL;
    let mut set = |flag, condition| {
        if condition {
            new |= flag;
        }
    };
    set(ZERO, result == 0);
    set(SIGN, result & top != 0);
    set(PARITY, (result as u8).count_ones().is_multiple_of(2));
    match operation {
        Operation::Add => {
            set(CARRY, result < a);
            set(OVERFLOW, (a ^ result) & (b ^ result) & top != 0);
            set(ADJUST, (a ^ b ^ result) & 0x10 != 0);
        }
        Operation::Sub => {
            set(CARRY, a < b);
            set(OVERFLOW, (a ^ b) & (a ^ result) & top != 0);
            set(ADJUST, (a ^ b ^ result) & 0x10 != 0);
        }
        Operation::And | Operation::Or | Operation::Xor => {}
    }
    (result, new)
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;
    use core::arch::asm;
    use proptest::prelude::*;

    macro_rules! on_processor {
        ($instruction:literal, $type:literal, $a:expr, $b:expr) => {{
            let (mut a, flags): (u64, u64);
            a = $a;
            // SAFETY: arithmetic on registers; the stack is used as the assembler expects.
            unsafe {
                asm!(concat!($instruction, " {a", $type, "}, {b", $type, "}"), "pushfq", "pop {f}",
                    a = inout(reg) a, b = in(reg) $b, f = out(reg) flags);
            }
            (a, flags)
        }};
    }

    proptest! {
        #[test]
        fn as_the_processor_does_it(a: u64, b: u64, small in 0u64..3) {
            let b = if small == 0 { a } else { b };
            let check = |operation, size, (result, flags): (u64, u64)| {
                let (r, f) = compute(operation, a, b, size, 0);
                let undefined = match operation {
                    Operation::Add | Operation::Sub => 0,
                    _ => ADJUST,
                };
                prop_assert_eq!(r, truncate(result, size));
                prop_assert_eq!(f, flags & ALL & !undefined, "{:?} {}", operation, size);
                Ok(())
            };
            check(Operation::Add, 8, on_processor!("add", "", a, b))?;
            check(Operation::Add, 4, on_processor!("add", ":e", a, b))?;
            check(Operation::Add, 2, on_processor!("add", ":x", a, b))?;
            check(Operation::Sub, 8, on_processor!("sub", "", a, b))?;
            check(Operation::Sub, 4, on_processor!("sub", ":e", a, b))?;
            check(Operation::Sub, 2, on_processor!("sub", ":x", a, b))?;
            check(Operation::And, 8, on_processor!("and", "", a, b))?;
            check(Operation::Or, 4, on_processor!("or", ":e", a, b))?;
            check(Operation::Xor, 2, on_processor!("xor", ":x", a, b))?;
        }
    }
}
