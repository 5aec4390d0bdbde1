//! The rules between the parts of a system, each reported at the line that breaks it.

use std::collections::BTreeMap;

use image::bundle::FileKind;
use image::system::{Name, System};
use toml::Spanned;

use super::Verifier;
use crate::diagnostic::{Diagnostic, Diagnostics, Place};
use crate::guest_file::{check_initrd, check_kernel};
use crate::{Config, GuestFile, Machine, OWN_NAMES, Overrides, Source, kernel_memory, raw, size};

impl Verifier<'_> {
    /// All parts, with the rules between them. `None`, or errors collected, if one is broken.
    pub(super) fn parts(&mut self, raw: &raw::System, overrides: &Overrides) -> Option<System> {
        let name = match &raw.name {
            Some(name) => self.value(name, "name"),
            None => {
                let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
                Name::try_from(stem.into_owned())
                    .or_else(|_| Name::try_from(String::from("system")))
                    .ok()
            }
        };
        if raw.vm.is_empty() && raw.native.is_empty() {
            let message = "the system has neither a VM nor a native program";
            self.error(
                Place::File(self.path.into()),
                message,
                "add a [[vm]] table; see configs/linux.toml",
            );
        }
        self.unique_names(raw);
        self.one_owner_of_each_uart(raw);
        self.consoles_exist(raw);
        let none = Overrides::default();
        let consoles = raw.console.iter().map(|console| {
            let name = console.name.get_ref();
            let is_client =
                |vm: &&raw::Vm| vm.console.as_ref().is_some_and(|c| c.get_ref() == name);
            let clients: Vec<_> = raw.vm.iter().filter(is_client).collect();
            self.console(console, &clients)
        });
        let servers: Vec<_> = consoles.collect();
        let vms: Vec<_> = (raw.vm.iter().enumerate())
            .map(|(i, vm)| self.vm(vm, if i == 0 { overrides } else { &none }))
            .collect();
        let natives: Vec<_> = raw.native.iter().map(|n| self.native(n)).collect();
        let system = System {
            name: name?,
            servers: servers.into_iter().collect::<Option<_>>()?,
            vms: vms.into_iter().collect::<Option<_>>()?,
            natives: natives.into_iter().collect::<Option<_>>()?,
        };
        if self.errors.is_empty() {
            self.memory_fits(raw, &system);
            self.kernel_memory_fits(raw, &system);
            self.fixed_memory(raw, &system);
        }
        if self.errors.is_empty()
            && let Err(e) = system.check()
        {
            self.error(Place::File(self.path.into()), e.to_string(), "correct the description");
        }
        Some(system)
    }

    fn unique_names(&mut self, raw: &raw::System) {
        let names = raw.console.iter().map(|c| &c.name).chain(raw.vm.iter().map(|v| &v.name));
        let names: Vec<&Spanned<String>> =
            names.chain(raw.native.iter().map(|n| &n.name)).collect();
        for (i, name) in names.iter().enumerate() {
            if OWN_NAMES.contains(&name.get_ref().as_str()) {
                let place = self.at(name);
                let message = format!(
                    "the name `{}` is taken: hypervisor and root task speak as {}",
                    name.get_ref(),
                    OWN_NAMES.join(" and ")
                );
                self.error(place, message, "choose another");
            }
            if let Some(first) = names[..i].iter().find(|n| n.get_ref() == name.get_ref()) {
                let (place, first) = (self.at(name), self.at(first));
                let message = format!("the name `{}` is taken: {first}", name.get_ref());
                self.error(
                    place,
                    message,
                    "consoles, VMs and programs share one set of names; choose another",
                );
            }
        }
    }

    fn one_owner_of_each_uart(&mut self, raw: &raw::System) {
        for (i, console) in raw.console.iter().enumerate() {
            let same = |c: &&raw::Console| c.uart.get_ref() == console.uart.get_ref();
            if let Some(owner) = raw.console[..i].iter().find(same) {
                let (place, first) = (self.at(&console.uart), self.at(&owner.uart));
                let (uart, owner) = (console.uart.get_ref(), owner.name.get_ref());
                let message =
                    format!("the UART `{uart}` has two owners: `{owner}` owns it at {first}");
                self.error(
                    place,
                    message,
                    "one console server can serve several VMs: let them share it",
                );
            }
        }
    }

    fn consoles_exist(&mut self, raw: &raw::System) {
        for wanted in raw.vm.iter().filter_map(|vm| vm.console.as_ref()) {
            if raw.console.iter().any(|c| c.name.get_ref() == wanted.get_ref()) {
                continue;
            }
            let names: Vec<&str> = raw.console.iter().map(|c| c.name.get_ref().as_str()).collect();
            let help = match names.as_slice() {
                [] => "add a [[console]] table with this name".into(),
                names => format!("there is: {}", names.join(", ")),
            };
            let place = self.at(wanted);
            self.error(place, format!("the console `{}` does not exist", wanted.get_ref()), help);
        }
    }

    fn memory_fits(&mut self, raw: &raw::System, system: &System) {
        let guests: u64 = system.vms.iter().map(|vm| vm.memory.bytes()).sum();
        let programs: u64 = system.compartments().map(|c| c.memory.bytes() + c.quota.bytes()).sum();
        let files: u64 = self.files.iter().map(file_size).sum();
        let needed = (guests + programs + files + Machine::RESERVE).next_multiple_of(2 << 20);
        let has = self.machine.memory;
        if needed > has {
            let place = self.at(&raw.machine.memory);
            let message = format!(
                "the system needs {} of memory and the machine has {}: {} for guests, {} MiB for programs \
                 and files, {} for the hypervisor and firmware",
                size::show(needed),
                size::show(has),
                size::show(guests),
                (programs + files).div_ceil(1 << 20),
                size::show(Machine::RESERVE),
            );
            let help = format!(
                "set memory = \"{}\" or more here, or give the VMs less",
                size::show(needed)
            );
            self.error(place, message, help);
        }
    }

    fn kernel_memory_fits(&mut self, raw: &raw::System, system: &System) {
        let needed = kernel_memory::needed(system, self.machine.cpus);
        if needed <= kernel_memory::MOST {
            return;
        }
        let message = format!(
            "the system needs {} of kernel memory; {} are possible",
            size::show(needed),
            size::show(kernel_memory::MOST)
        );
        let help = "a VM takes 1 MiB and 2 MiB for each GiB of its memory, or what its kernel_memory says: give less";
        let place = self.at(&raw.machine.memory);
        self.error(place, message, help);
    }

    fn fixed_memory(&mut self, raw: &raw::System, system: &System) {
        let mut taken: Vec<(u64, u64, &Name)> = Vec::new();
        for (vm, raw) in system.vms.iter().zip(&raw.vm) {
            let (Some(at), Some(raw)) = (vm.memory_at, &raw.memory_at) else {
                continue;
            };
            let (start, end) = (at.raw(), at.raw() + vm.memory.bytes());
            let place = self.at(raw);
            if !self.machine.has_ram(start, end) {
                let ram: Vec<String> =
                    self.machine.ram().iter().map(|(a, b)| format!("{a:#x}-{b:#x}")).collect();
                let message = format!("{start:#x}-{end:#x} is not all RAM of the machine");
                self.error(place, message, format!("its RAM is at {}", ram.join(" and ")));
            } else if let Some((a, b, other)) =
                taken.iter().find(|(a, b, _)| *a < end && start < *b)
            {
                let message = format!(
                    "the memory {start:#x}-{end:#x} overlaps that of `{other}`, {a:#x}-{b:#x}"
                );
                self.error(
                    place,
                    message,
                    "move one of them, or leave out memory_at: then the place is chosen",
                );
            }
            taken.push((start, end, &vm.name));
        }
    }
}

fn file_size(file: &GuestFile) -> u64 {
    match &file.source {
        Source::Default => 0,
        Source::Path(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
    }
}

impl Config {
    /// Checks guest files by their contents, each against every VM that uses it. `contents` maps names
    /// in the bundle to contents; files that are not in it are not checked.
    pub fn check_files(&self, contents: &BTreeMap<String, Vec<u8>>) -> Result<(), Diagnostics> {
        let mut errors = Vec::new();
        let architecture = self.machine.architecture();
        for file in &self.files {
            let Some(bytes) = contents.get(&file.name) else {
                continue;
            };
            let vms = self.system.vms.iter();
            let result = match file.kind {
                FileKind::Kernel => vms.filter(|vm| vm.kernel == file.name).try_for_each(|vm| {
                    check_kernel(architecture, bytes, vm.memory.bytes()).map(drop)
                }),
                FileKind::Initrd => {
                    vms.filter(|vm| vm.initrd.as_ref() == Some(&file.name)).try_for_each(|vm| {
                        let memory = vm.memory.bytes();
                        let kernel = contents
                            .get(&vm.kernel)
                            .and_then(|k| check_kernel(architecture, k, memory).ok());
                        check_initrd(bytes, kernel, memory)
                    })
                }
                FileKind::Program | FileKind::Text => Ok(()),
            };
            if let Err(e) = result {
                let path = match &file.source {
                    Source::Default => "the default file".into(),
                    Source::Path(path) => path.display().to_string(),
                };
                let message = format!("{path}: {}", e.message);
                errors.push(Diagnostic::new(file.place.clone(), message, e.help));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Diagnostics(errors)) }
    }
}
