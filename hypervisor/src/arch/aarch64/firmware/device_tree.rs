//! What the device tree says of the machine (Devicetree Specification 0.4; bindings in Linux's
//! Documentation/devicetree/bindings).
//!
//! The tree is a loader's: [`fdt`](super::fdt) checks its structure, and here every number is checked before it is
//! used. Nodes are visited one by one, without recursion deeper than [`MAX_DEPTH`].

use super::fdt::{Node, Tree, number};
use crate::addr::HostPhys;
use crate::boot::{CommandLine, PhysRange};

/// Deepest node that is looked at.
const MAX_DEPTH: usize = 8;
/// Most ranges of memory, and of reserved memory.
pub const MAX_RANGES: usize = 32;
/// Most redistributor regions of a GICv3.
pub const MAX_REDISTRIBUTORS: usize = 4;

/// Puts an item into the first free place, if there is one.
fn push<T>(list: &mut [Option<T>], item: T) -> Option<()> {
    *list.iter_mut().find(|place| place.is_none())? = Some(item);
    Some(())
}

/// The interrupt controller.
#[derive(Clone, Copy, Debug)]
pub enum Gic {
    /// GICv2 with its virtualisation extensions (IHI 0048).
    V2 {
        /// Distributor.
        distributor: PhysRange,
        /// CPU interface.
        cpu_interface: PhysRange,
        /// Virtual interface control.
        control: PhysRange,
        /// Virtual CPU interface, for guests.
        vcpu_interface: PhysRange,
    },
    /// GICv3 or v4 (IHI 0069).
    V3 {
        /// Distributor.
        distributor: PhysRange,
        /// Regions of redistributors.
        redistributors: [Option<PhysRange>; MAX_REDISTRIBUTORS],
    },
}

/// A PL011.
#[derive(Clone, Copy, Debug)]
pub struct Uart {
    /// Its registers.
    pub range: PhysRange,
    /// Its SPI, counted from 0.
    pub interrupt: Option<u32>,
}

/// What the kernel wants to know.
pub struct Machine {
    /// RAM.
    pub memory: [Option<PhysRange>; MAX_RANGES],
    /// What of it must not be used.
    pub reserved: [Option<PhysRange>; MAX_RANGES],
    /// Affinities of the CPUs, as in MPIDR_EL1.
    pub cpus: [Option<u64>; abi::boot::MAX_CPUS],
    /// Whether there is firmware, called by SMC. HVC calls a hypervisor below this one.
    pub has_firmware: bool,
    /// The interrupt controller.
    pub gic: Option<Gic>,
    /// The UART of `stdout-path`, or the first PL011.
    pub uart: Option<Uart>,
    /// The initial RAM disk: the bundle.
    pub bundle: Option<PhysRange>,
    /// The command line.
    pub command_line: CommandLine,
}

impl Machine {
    /// Reads a tree. `None`: its structure is broken, a number in it makes no sense, it has more memory than the lists hold, or
    /// memory or an interrupt controller behind a bus that does not pass its addresses on.
    pub fn read(bytes: &[u8]) -> Option<Machine> {
        let tree = Tree::new(bytes)?;
        let root = tree.root()?;
        let mut machine = Machine {
            memory: [None; MAX_RANGES],
            reserved: [None; MAX_RANGES],
            cpus: [None; abi::boot::MAX_CPUS],
            has_firmware: false,
            gic: None,
            uart: None,
            bundle: None,
            command_line: CommandLine::EMPTY,
        };
        for (start, size) in tree.reservations() {
            if let Some(range) = PhysRange::new(HostPhys(start), size) {
                push(&mut machine.reserved, range)?;
            }
        }
        machine.chosen(&tree)?;
        let stdout = stdout_node(&tree);
        machine.walk(&root, &Bus::Root, 0, stdout.as_ref())?;
        Some(machine)
    }

    fn chosen(&mut self, tree: &Tree<'_>) -> Option<()> {
        let Some(chosen) = tree.find(b"/chosen") else {
            return Some(());
        };
        if let Some(text) = chosen.property(b"bootargs") {
            self.command_line.set(text);
        }
        let start = chosen.property(b"linux,initrd-start");
        let end = chosen.property(b"linux,initrd-end");
        if let (Some(start), Some(end)) = (start, end) {
            let (start, end) = (number(start)?, number(end)?);
            self.bundle = PhysRange::new(HostPhys(start), end.checked_sub(start)?);
        }
        Some(())
    }

    /// Takes what a node on `bus` says, and what is below it.
    fn walk<'a>(
        &mut self,
        node: &Node<'a>,
        bus: &Bus<'_, 'a>,
        depth: usize,
        stdout: Option<&Node<'a>>,
    ) -> Option<()> {
        self.node(node, bus, stdout)?;
        if depth < MAX_DEPTH {
            let below = if depth == 0 { Bus::Root } else { Bus::Behind(bus, node) };
            for child in node.children() {
                self.walk(&child, &below, depth + 1, stdout)?;
            }
        }
        Some(())
    }

    fn node(
        &mut self,
        node: &Node<'_>,
        bus: &Bus<'_, '_>,
        stdout: Option<&Node<'_>>,
    ) -> Option<()> {
        let is = |name: &[u8]| node.is_compatible(name);
        let device_type = node.property(b"device_type");
        let has_type = |name: &[u8]| device_type == Some(name);
        if has_type(b"memory\0") && is_enabled(node) {
            for range in registers(node, bus) {
                push(&mut self.memory, range?)?;
            }
        } else if has_type(b"cpu\0") && is_enabled(node) {
            let id = node.property(b"reg").and_then(number)?;
            // Those beyond what the kernel handles are left out.
            let _ = push(&mut self.cpus, id);
        } else if node.base_name() == b"reserved-memory" {
            for child in node.children() {
                for range in registers(&child, bus) {
                    push(&mut self.reserved, range?)?;
                }
            }
        } else if is(b"arm,psci") || is(b"arm,psci-0.2") || is(b"arm,psci-1.0") {
            self.has_firmware = node.property(b"method") == Some(b"smc\0");
        } else if is(b"arm,gic-v3") && self.gic.is_none() {
            self.gic_v3(node, bus)?;
        } else if (is(b"arm,cortex-a15-gic") || is(b"arm,gic-400")) && self.gic.is_none() {
            self.gic_v2(node, bus)?;
        } else if is(b"arm,pl011") && is_enabled(node) {
            let is_stdout = stdout.is_some_and(|stdout| stdout.is(node));
            if is_stdout || self.uart.is_none() {
                // One that cannot be reached is none.
                if let Some(Some(range)) = registers(node, bus).next() {
                    self.uart = Some(Uart { range, interrupt: spi(node) });
                }
            }
        }
        Some(())
    }

    fn gic_v2(&mut self, node: &Node<'_>, bus: &Bus<'_, '_>) -> Option<()> {
        let mut ranges = [None; 4];
        for range in registers(node, bus).take(4) {
            push(&mut ranges, range?)?;
        }
        // Without virtual interfaces it is of no use here.
        if let [Some(distributor), Some(cpu_interface), Some(control), Some(vcpu_interface)] =
            ranges
        {
            // Older trees leave out the second page, which every GIC with virtual interfaces has (IHI 0048, 4.1.3).
            let size = cpu_interface.size().max(2 * crate::mem::PAGE);
            let cpu_interface = PhysRange::new(cpu_interface.start(), size)?;
            self.gic = Some(Gic::V2 { distributor, cpu_interface, control, vcpu_interface });
        }
        Some(())
    }

    fn gic_v3(&mut self, node: &Node<'_>, bus: &Bus<'_, '_>) -> Option<()> {
        let count = node.property(b"#redistributor-regions").map_or(Some(1), number)? as usize;
        let mut ranges = registers(node, bus);
        let distributor = ranges.next()??;
        let mut redistributors = [None; MAX_REDISTRIBUTORS];
        // Behind them may be what nobody needs.
        for range in ranges.take(count) {
            push(&mut redistributors, range?)?;
        }
        self.gic = Some(Gic::V3 { distributor, redistributors });
        Some(())
    }
}

/// What the addresses of a bus mean (Devicetree Specification 0.4, 2.3.8).
#[derive(Clone, Copy)]
enum Bus<'b, 'a> {
    /// They are the CPU's own addresses.
    Root,
    /// A node on the first bus passes on what its `ranges` say.
    Behind(&'b Bus<'b, 'a>, &'b Node<'a>),
}

impl Bus<'_, '_> {
    /// Where the CPU finds a range of this bus.
    fn translate(&self, start: u64, size: u64) -> Option<u64> {
        let Bus::Behind(bus, node) = self else {
            return Some(start);
        };
        let ranges = node.property(b"ranges")?;
        if ranges.is_empty() {
            return bus.translate(start, size);
        }
        let (cells, above) = (node.children_cells(), 4 * node.cells.address);
        let (address, length) = (4 * cells.address, 4 * cells.size);
        let mut ranges = ranges.chunks_exact((address + above + length).max(1));
        let found = ranges.find_map(|range| {
            // Of more than two cells are addresses with a type, as of PCI: nothing that the kernel uses.
            let (child, range) = range.split_at(address);
            let (parent, length) = range.split_at(above);
            let offset = start.checked_sub(number(child)?)?;
            let room = number(length)?.checked_sub(offset)?;
            let parent = number(parent)?;
            (room >= size).then(|| parent.checked_add(offset)).flatten()
        });
        bus.translate(found?, size)
    }
}

/// The ranges of `reg` of a node on `bus`, and `None` for one that makes no sense or is out of reach. What is empty is nothing.
fn registers(node: &Node<'_>, bus: &Bus<'_, '_>) -> impl Iterator<Item = Option<PhysRange>> {
    let (address, size) = (4 * node.cells.address, 4 * node.cells.size);
    let reg = node.property(b"reg").unwrap_or_default().chunks_exact((address + size).max(1));
    reg.map(move |entry| entry.split_at(address)).filter(|(_, size)| number(size) != Some(0)).map(
        |(address, size)| {
            let (address, size) = (number(address)?, number(size)?);
            PhysRange::new(HostPhys(bus.translate(address, size)?), size)
        },
    )
}

fn is_enabled(node: &Node<'_>) -> bool {
    node.property(b"status").is_none_or(|status| matches!(status, b"okay\0" | b"ok\0"))
}

/// The first interrupt of a device, if it is an SPI of a GIC: type, number and flags in a cell each.
fn spi(node: &Node<'_>) -> Option<u32> {
    let mut cells = node.property(b"interrupts")?.chunks_exact(4);
    let (kind, line) = (number(cells.next()?)?, number(cells.next()?)?);
    (kind == 0 && line < 988).then_some(line as u32)
}

/// The node of `stdout-path`, whose options after a colon do not count; an alias is followed once.
fn stdout_node<'a>(tree: &Tree<'a>) -> Option<Node<'a>> {
    let path = |property: &'a [u8]| {
        property.split(|&byte| matches!(byte, 0 | b':')).next().unwrap_or_default()
    };
    let stdout = path(tree.find(b"/chosen")?.property(b"stdout-path")?);
    if stdout.starts_with(b"/") {
        return tree.find(stdout);
    }
    tree.find(path(tree.find(b"/aliases")?.property(stdout)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_fdt::FdtWriter;

    /// A tree like QEMU's, with two cells for each address and size.
    fn tree(gic: u32) -> Vec<u8> {
        tree_on_bus(gic, None)
    }

    /// The same with the interrupt controller on a bus whose addresses are where `ranges` says, one cell each.
    fn tree_on_bus(gic: u32, ranges: Option<&[u32]>) -> Vec<u8> {
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_u32("#address-cells", 2).unwrap();
        fdt.property_u32("#size-cells", 2).unwrap();
        let chosen = fdt.begin_node("chosen").unwrap();
        fdt.property_string("bootargs", "pool=16").unwrap();
        fdt.property_string("stdout-path", "/uart@9010000:115200").unwrap();
        fdt.property_u32("linux,initrd-start", 0x4800_0000).unwrap();
        fdt.property_u64("linux,initrd-end", 0x4900_0000).unwrap();
        fdt.end_node(chosen).unwrap();
        for (name, base) in [("memory@40000000", 0x4000_0000u64), ("memory@8", 8 << 32)] {
            let memory = fdt.begin_node(name).unwrap();
            fdt.property_string("device_type", "memory").unwrap();
            fdt.property_array_u64("reg", &[base, 1 << 30]).unwrap();
            fdt.end_node(memory).unwrap();
        }
        let reserved = fdt.begin_node("reserved-memory").unwrap();
        fdt.property_u32("#address-cells", 2).unwrap();
        fdt.property_u32("#size-cells", 2).unwrap();
        let firmware = fdt.begin_node("firmware@41000000").unwrap();
        fdt.property_array_u64("reg", &[0x4100_0000, 0x1_0000]).unwrap();
        fdt.end_node(firmware).unwrap();
        fdt.end_node(reserved).unwrap();
        let cpus = fdt.begin_node("cpus").unwrap();
        fdt.property_u32("#address-cells", 1).unwrap();
        fdt.property_u32("#size-cells", 0).unwrap();
        for (id, status) in [(0, "okay"), (0x101, "okay"), (2, "disabled")] {
            let cpu = fdt.begin_node(&format!("cpu@{id:x}")).unwrap();
            fdt.property_string("device_type", "cpu").unwrap();
            fdt.property_string("status", status).unwrap();
            fdt.property_u32("reg", id).unwrap();
            fdt.end_node(cpu).unwrap();
        }
        fdt.end_node(cpus).unwrap();
        let psci = fdt.begin_node("psci").unwrap();
        fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci".into()])
            .unwrap();
        fdt.property_string("method", "smc").unwrap();
        fdt.end_node(psci).unwrap();
        let soc = ranges.map(|ranges| {
            let soc = fdt.begin_node("soc").unwrap();
            fdt.property_u32("#address-cells", 1).unwrap();
            fdt.property_u32("#size-cells", 1).unwrap();
            fdt.property_array_u32("ranges", ranges).unwrap();
            soc
        });
        let controller = fdt.begin_node("intc@8000000").unwrap();
        if soc.is_some() {
            fdt.property_string("compatible", "arm,gic-400").unwrap();
            let reg = [0x1000, 0x1000, 0x2000, 0x2000, 0x4000, 0x2000, 0x6000, 0x2000];
            fdt.property_array_u32("reg", &reg).unwrap();
        } else if gic == 3 {
            fdt.property_string("compatible", "arm,gic-v3").unwrap();
            fdt.property_array_u64("reg", &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000]).unwrap();
        } else {
            fdt.property_string("compatible", "arm,cortex-a15-gic").unwrap();
            let reg =
                [0x800_0000, 0x1000, 0x801_0000, 0x2000, 0x803_0000, 0x2000, 0x804_0000, 0x2000];
            fdt.property_array_u64("reg", &reg).unwrap();
        }
        fdt.end_node(controller).unwrap();
        if let Some(soc) = soc {
            fdt.end_node(soc).unwrap();
        }
        for (at, spi) in [(0x900_0000u64, 1), (0x901_0000, 8)] {
            let uart = fdt.begin_node(&format!("uart@{at:x}")).unwrap();
            fdt.property_string("compatible", "arm,pl011").unwrap();
            fdt.property_array_u64("reg", &[at, 0x1000]).unwrap();
            fdt.property_array_u32("interrupts", &[0, spi, 4]).unwrap();
            fdt.end_node(uart).unwrap();
        }
        fdt.end_node(root).unwrap();
        fdt.finish().unwrap()
    }

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::new(HostPhys(start), size).unwrap()
    }

    #[test]
    fn a_machine_is_read() {
        let bytes = tree(3);
        assert_eq!(Tree::claimed_size(&bytes), Some(bytes.len()));
        let machine = Machine::read(&bytes).unwrap();
        let memory: Vec<_> = machine.memory.into_iter().flatten().collect();
        assert_eq!(memory, [range(0x4000_0000, 1 << 30), range(8 << 32, 1 << 30)]);
        let reserved: Vec<_> = machine.reserved.into_iter().flatten().collect();
        assert_eq!(reserved, [range(0x4100_0000, 0x1_0000)]);
        assert_eq!(machine.cpus.into_iter().flatten().collect::<Vec<_>>(), [0, 0x101]);
        assert!(machine.has_firmware);
        assert_eq!(machine.bundle, Some(range(0x4800_0000, 0x100_0000)));
        assert_eq!(machine.command_line.number("pool"), Some(16));
        let uart = machine.uart.unwrap();
        assert_eq!((uart.range.start().0, uart.interrupt), (0x901_0000, Some(8)));
        let Some(Gic::V3 { redistributors, .. }) = machine.gic else {
            panic!("{:?}", machine.gic);
        };
        assert_eq!(redistributors, [Some(range(0x80a_0000, 0xf6_0000)), None, None, None]);
        let machine = Machine::read(&tree(2)).unwrap();
        let Some(Gic::V2 { vcpu_interface, .. }) = machine.gic else {
            panic!("{:?}", machine.gic);
        };
        assert_eq!(vcpu_interface, range(0x804_0000, 0x2000));
    }

    #[test]
    fn cpus_beyond_the_limit_are_left_out() {
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        for id in 0..2 * abi::boot::MAX_CPUS as u32 {
            let cpu = fdt.begin_node(&format!("cpu@{id:x}")).unwrap();
            fdt.property_string("device_type", "cpu").unwrap();
            fdt.property_u32("reg", id).unwrap();
            fdt.end_node(cpu).unwrap();
        }
        fdt.end_node(root).unwrap();
        let machine = Machine::read(&fdt.finish().unwrap()).unwrap();
        assert!(machine.cpus.into_iter().eq((0..abi::boot::MAX_CPUS as u64).map(Some)));
    }

    #[test]
    fn addresses_are_those_that_buses_pass_on() {
        let read = |ranges: &[u32]| {
            Machine::read(&tree_on_bus(2, Some(ranges))).map(|machine| match machine.gic {
                Some(Gic::V2 { distributor, vcpu_interface, .. }) => {
                    (distributor.start().0, vcpu_interface.start().0)
                }
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(read(&[]), Some((0x1000, 0x6000)));
        // The parent's addresses have two cells.
        assert_eq!(read(&[0, 0x7, 0xff84_0000, 0x8000]), Some((0x7_ff84_1000, 0x7_ff84_6000)));
        assert_eq!(
            read(&[0, 0, 0x1000_0000, 0x6000, 0x6000, 0, 0x2000_0000, 0x2000]),
            Some((0x1000_1000, 0x2000_0000))
        );
        // As many as there are.
        let many: Vec<u32> = (0..40u32).flat_map(|i| [0x10_0000 * i, 1, i << 20, 0x8000]).collect();
        assert_eq!(read(&many), Some((0x1_0000_1000, 0x1_0000_6000)));
        for ranges in [
            [0, 0, 0x1000_0000, 0x7fff],
            [0x1001, 0, 0, 0x8000],
            [0, u32::MAX, 0xffff_9000, 0x8000],
        ] {
            assert!(read(&ranges).is_none(), "{ranges:x?}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_tree_does_no_harm(
            gic in 2u32..5,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
            cut in any::<prop::sample::Index>(),
            whole: bool,
        ) {
            let on_bus: Option<&[u32]> = (gic == 4).then_some(&[0, 0, 0x800_0000, 0x8000]);
            let mut bytes = tree_on_bus(gic, on_bus);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let end = if whole { bytes.len() } else { cut.index(bytes.len()) };
            // Whatever it says is in order as long as it is said without a panic or an endless loop.
            let _ = Machine::read(&bytes[..end]);
            let _ = Tree::claimed_size(&bytes[..end]);
        }
    }
}
