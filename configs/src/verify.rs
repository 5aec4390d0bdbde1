//! From the file as written to a checked [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use image::bundle::FileKind;
use image::system::{
    After, Args, CommandLine, Compartment, Cpu, GuestMemory, HostAddress, Name, Native, Pages,
    Priority, ProgramMemory, Server, ServerKind, Vcpus, Vm,
};
use toml::Spanned;

use crate::diagnostic::{Diagnostic, Diagnostics, Place, line};
use crate::{Architecture, Config, GuestFile, Machine, Overrides, Source, raw, size};

mod machine;
mod rules;

use machine::{guest_uart, uarts};

/// Program of console servers.
pub const CONSOLE_PROGRAM: &str = "console";
/// Program of monitors.
pub const MONITOR_PROGRAM: &str = "monitor";

/// Collects errors while the description is put together.
struct Verifier<'a> {
    path: &'a Path,
    text: &'a str,
    machine: Machine,
    errors: Vec<Diagnostic>,
    files: Vec<GuestFile>,
}

/// What all kinds of compartments may say of their resources.
struct Resources<'a> {
    cpu: Option<Cpu>,
    priority: Option<&'a Spanned<u8>>,
    kernel_memory: Option<&'a Spanned<String>>,
    program_memory: Option<&'a Spanned<String>>,
    fault_after_ms: Option<u32>,
}

/// What a compartment gets unless the file says otherwise.
struct Defaults {
    priority: u8,
    kernel_memory: u64,
    program_memory: u64,
}

/// Verifies a whole file.
pub fn verify(
    path: &Path,
    text: &str,
    raw: raw::System,
    overrides: &Overrides,
) -> Result<Config, Diagnostics> {
    let machine = Machine::usual(Architecture::X86_64, 0, 0);
    let mut verifier = Verifier { path, text, machine, errors: Vec::new(), files: Vec::new() };
    // What else is right depends on it.
    let Some(architecture) = verifier.architecture(&raw.machine) else {
        return Err(Diagnostics(verifier.errors));
    };
    verifier.machine(&raw.machine, architecture);
    let parts = verifier.parts(&raw, overrides);
    let Verifier { errors, files, machine, .. } = verifier;
    match parts {
        Some(system) if errors.is_empty() => {
            let config = Config { system, machine, files };
            config.check_files(&read_files(&config.files)?)?;
            Ok(config)
        }
        _ => Err(Diagnostics(errors)),
    }
}

/// Reads the guest files that are the user's.
fn read_files(files: &[GuestFile]) -> Result<BTreeMap<String, Vec<u8>>, Diagnostics> {
    let mut contents = BTreeMap::new();
    let mut errors = Vec::new();
    for file in files {
        let Source::Path(path) = &file.source else {
            continue;
        };
        match read_file(path) {
            Ok(bytes) => {
                contents.insert(file.name.clone(), bytes);
            }
            Err(e) => errors.push(Diagnostic::new(
                file.place.clone(),
                format!("{} cannot be read: {e}", path.display()),
                "correct the path (paths in a configuration are relative to its folder), or write \"default\"",
            )),
        }
    }
    if errors.is_empty() { Ok(contents) } else { Err(Diagnostics(errors)) }
}

/// Reads a regular file. Its size has been held against the machine's memory; devices and pipes may have no end.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    match std::fs::metadata(path)? {
        data if data.is_file() => std::fs::read(path),
        data if data.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => Err(std::io::Error::other("it is a device or a pipe, not a file")),
    }
}

/// Number of CPUs that a VM runs on.
fn distinct_cpus(vm: &raw::Vm) -> u64 {
    let cpus = vm.vcpus.get_ref().iter().map(|cpu| *cpu.get_ref());
    BTreeSet::from_iter(cpus).len() as u64
}

impl Verifier<'_> {
    fn at<T>(&self, value: &Spanned<T>) -> Place {
        line(self.path, self.text, value.span().start)
    }

    fn error(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.errors.push(Diagnostic::new(place, message, help));
    }

    /// A value with its own rule.
    fn value<R: Clone, T: TryFrom<R>>(&mut self, raw: &Spanned<R>, what: &str) -> Option<T>
    where
        T::Error: std::fmt::Display,
    {
        match T::try_from(raw.get_ref().clone()) {
            Ok(value) => Some(value),
            Err(rule) => {
                let place = self.at(raw);
                self.error(place, format!("this {what} is not possible"), rule.to_string());
                None
            }
        }
    }

    fn bytes(&mut self, raw: &Spanned<String>) -> Option<u64> {
        let bytes = size::parse(raw.get_ref());
        if bytes.is_none() {
            let place = self.at(raw);
            self.error(place, format!("`{}` is no size", raw.get_ref()), size::HELP);
        }
        bytes
    }

    /// A size with its own rule.
    fn size<T: TryFrom<u64>>(&mut self, raw: &Spanned<String>) -> Option<T>
    where
        T::Error: std::fmt::Display,
    {
        let bytes = self.bytes(raw)?;
        match T::try_from(bytes) {
            Ok(value) => Some(value),
            Err(rule) => {
                let place = self.at(raw);
                self.error(
                    place,
                    format!("{} is not possible here", raw.get_ref()),
                    rule.to_string(),
                );
                None
            }
        }
    }

    fn cpu(&mut self, raw: &Spanned<u32>) -> Option<Cpu> {
        let count = self.machine.cpus;
        if (1..=*raw.get_ref()).contains(&count) {
            let place = self.at(raw);
            let help = match count {
                1 => "use CPU 0, or give [machine] more cpus".into(),
                n => format!("use 0 to {}, or give [machine] more cpus", n - 1),
            };
            self.error(
                place,
                format!("CPU {} does not exist: the machine has {count}", raw.get_ref()),
                help,
            );
            return None;
        }
        self.value(raw, "CPU number")
    }

    fn compartment(
        &mut self,
        program: Name,
        given: Resources<'_>,
        defaults: Defaults,
    ) -> Option<Compartment> {
        let priority = match given.priority {
            Some(raw) => self.value(raw, "priority"),
            None => Priority::try_from(defaults.priority).ok(),
        };
        let bytes = match given.kernel_memory {
            Some(raw) => self.bytes(raw),
            None => Some(defaults.kernel_memory),
        };
        let quota = bytes.and_then(|bytes| {
            let quota =
                u32::try_from(bytes.div_ceil(4096)).ok().and_then(|p| Pages::try_from(p).ok());
            if let (None, Some(raw)) = (quota, given.kernel_memory) {
                let place = self.at(raw);
                self.error(
                    place,
                    format!("{} of kernel memory is not possible", raw.get_ref()),
                    Pages::RULE,
                );
            }
            quota
        });
        let memory = match given.program_memory {
            Some(raw) => self.size(raw),
            None => ProgramMemory::try_from(defaults.program_memory).ok(),
        };
        Some(Compartment {
            program,
            cpu: given.cpu?,
            priority: priority?,
            quota: quota?,
            memory: memory?,
            fault_after_ms: given.fault_after_ms,
        })
    }

    /// The console server of these VMs.
    fn console(&mut self, raw: &raw::Console, clients: &[&raw::Vm]) -> Option<Server> {
        let name = self.value(&raw.name, "name");
        let uarts = uarts(self.machine.architecture());
        let uart = uarts.iter().find(|(name, _)| name == raw.uart.get_ref());
        if uart.is_none() {
            let place = self.at(&raw.uart);
            let names: Vec<String> = uarts.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.error(
                place,
                format!("the machine has no UART `{}`", raw.uart.get_ref()),
                format!("write {}", names.join(" or ")),
            );
        }
        let cpu = raw.cpu.as_ref().map_or(Some(Cpu::BOOT), |cpu| self.cpu(cpu));
        let given = Resources {
            cpu,
            priority: raw.priority.as_ref(),
            kernel_memory: raw.kernel_memory.as_ref(),
            program_memory: raw.program_memory.as_ref(),
            fault_after_ms: raw.fault_after_ms,
        };
        let clients = clients.iter().map(|vm| 32 + 16 * distinct_cpus(vm));
        let defaults = Defaults {
            priority: 96,
            kernel_memory: 1 << 20,
            // For each VM it has buffers, and a thread on each of its CPUs: 40 KiB were measured for a VM on one.
            program_memory: (512 << 10).max((128 + clients.sum::<u64>()) << 10),
        };
        let program = Name::try_from(String::from(CONSOLE_PROGRAM)).ok()?;
        let compartment = self.compartment(program, given, defaults);
        Some(Server {
            name: name?,
            compartment: compartment?,
            kind: ServerKind::Console { uart: uart?.1 },
        })
    }

    fn after(&mut self, raw: Option<&Spanned<String>>, default: After) -> Option<After> {
        match raw.map(|r| (r, r.get_ref().as_str())) {
            None => Some(default),
            Some((_, "stop")) => Some(After::Stop),
            Some((_, "restart")) => Some(After::Restart),
            Some((raw, other)) => {
                let place = self.at(raw);
                self.error(
                    place,
                    format!("`{other}` is no such policy"),
                    "write \"stop\" or \"restart\"",
                );
                None
            }
        }
    }

    /// The bundle's name for a guest file, which is added if no other VM uses it.
    fn file(&mut self, kind: FileKind, source: Source, place: Place) -> String {
        if let Some(same) = self.files.iter().find(|f| f.kind == kind && f.source == source) {
            return same.name.clone();
        }
        let stem = match kind {
            FileKind::Kernel => "kernel",
            FileKind::Initrd => "initrd",
            FileKind::Program => "program",
            FileKind::Text => "text",
        };
        let name = match self.files.iter().filter(|f| f.kind == kind).count() {
            0 => stem.into(),
            n => format!("{stem}-{}", n + 1),
        };
        self.files.push(GuestFile { name: name.clone(), kind, source, place });
        name
    }

    /// A file as the configuration names it, or the option that replaces it.
    fn chosen_file(
        &mut self,
        kind: FileKind,
        raw: &Spanned<String>,
        option: (&'static str, Option<&PathBuf>),
    ) -> String {
        match option {
            (name, Some(path)) => self.file(kind, Source::Path(path.clone()), Place::Option(name)),
            (_, None) => {
                let base = self.path.parent().unwrap_or(Path::new(""));
                let source = match raw.get_ref().as_str() {
                    "default" => Source::Default,
                    path => Source::Path(base.join(path)),
                };
                let place = self.at(raw);
                self.file(kind, source, place)
            }
        }
    }

    fn vm(&mut self, raw: &raw::Vm, overrides: &Overrides) -> Option<Vm> {
        let name = self.value(&raw.name, "name");
        let memory: Option<GuestMemory> = self.size(&raw.memory);
        let memory_at = raw.memory_at.as_ref().map(|at| self.size::<HostAddress>(at));
        let vcpus: Option<Vec<Cpu>> = raw
            .vcpus
            .get_ref()
            .iter()
            .map(|cpu| self.cpu(cpu))
            .collect::<Vec<_>>()
            .into_iter()
            .collect();
        let vcpus: Option<Vcpus> = match vcpus.map(Vcpus::try_from)? {
            Ok(vcpus) => Some(vcpus),
            Err(rule) => {
                let place = self.at(&raw.vcpus);
                self.error(place, "this list of vCPUs is not possible", rule.to_string());
                None
            }
        };
        let kernel = self.chosen_file(
            FileKind::Kernel,
            &raw.kernel,
            ("--kernel", overrides.kernel.as_ref()),
        );
        let initrd = match (&raw.initrd, &overrides.initrd) {
            (Some(raw), over) => {
                Some(self.chosen_file(FileKind::Initrd, raw, ("--initrd", over.as_ref())))
            }
            (None, Some(path)) => {
                let place = Place::Option("--initrd");
                Some(self.file(FileKind::Initrd, Source::Path(path.clone()), place))
            }
            (None, None) => None,
        };
        let cmdline = match &overrides.cmdline {
            Some(text) => CommandLine::try_from(text.clone())
                .map_err(|rule| {
                    let message = "this command line is not possible";
                    self.error(Place::Option("--cmdline"), message, rule.to_string());
                })
                .ok(),
            None => self.value(&raw.cmdline, "command line"),
        };
        let console = match &raw.console {
            Some(console) => Some(self.value::<_, Name>(console, "name of a console")?),
            None => None,
        };
        let on_reset = self.after(raw.on_reset.as_ref(), After::Restart);
        let on_crash = self.after(raw.on_crash.as_ref(), After::Stop);
        let given = Resources {
            cpu: vcpus.as_ref().map(Vcpus::first),
            priority: raw.priority.as_ref(),
            kernel_memory: raw.kernel_memory.as_ref(),
            program_memory: raw.program_memory.as_ref(),
            fault_after_ms: raw.fault_after_ms,
        };
        // A page of the guest's page tables maps 2 MiB; the rest is for kernel objects.
        let tables = memory.map_or(0, |m| m.bytes() / (2 << 20) * 4096);
        let defaults = Defaults {
            priority: 64,
            kernel_memory: (1 << 20) + tables,
            // On each CPU it has threads, with their stacks.
            program_memory: (1 << 20).max((256 + 48 * distinct_cpus(raw)) << 10),
        };
        let program = Name::try_from(String::from(MONITOR_PROGRAM)).ok()?;
        let monitor = self.compartment(program, given, defaults);
        Some(Vm {
            name: name?,
            monitor: monitor?,
            memory: memory?,
            memory_at: memory_at.map_or(Some(None), |at| at.map(Some))?,
            vcpus: vcpus?,
            kernel,
            initrd,
            cmdline: cmdline?,
            console,
            serial: guest_uart(self.machine.architecture()),
            on_reset: on_reset?,
            on_crash: on_crash?,
        })
    }

    fn native(&mut self, raw: &raw::Native) -> Option<Native> {
        let name = self.value(&raw.name, "name");
        let program: Option<Name> = self.value(&raw.program, "name of a program");
        let args: Option<Args> = match &raw.args {
            Some(args) => self.value(args, "text of arguments"),
            None => Args::try_from(String::new()).ok(),
        };
        let cpu = raw.cpu.as_ref().map_or(Some(Cpu::BOOT), |cpu| self.cpu(cpu));
        let given = Resources {
            cpu,
            priority: raw.priority.as_ref(),
            kernel_memory: raw.kernel_memory.as_ref(),
            program_memory: raw.program_memory.as_ref(),
            fault_after_ms: raw.fault_after_ms,
        };
        let defaults = Defaults { priority: 32, kernel_memory: 1 << 20, program_memory: 1 << 20 };
        let compartment = self.compartment(program?, given, defaults);
        Some(Native { name: name?, compartment: compartment?, args: args? })
    }
}
