//! Loads what was vetted and compares its ABI with ours, type by type, before any of its functions is called.
//!
//! abi_stable's own loader keeps one module per process, and refuses a plugin that is older than the host; so the
//! library is opened here, and the comparison is made in the direction that asks whether the older side's view is a
//! prefix of the newer one's.
#![allow(unsafe_code)]

use super::vet::Vetted;
use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::{
        AbiInstability, AbiInstabilityErrors, CheckingGlobals, check_layout_compatibility_with_globals,
    },
    library::{AbiHeader, AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL, RootModule},
    type_layout::TLFieldOrFunction,
};
use anyhow::{Result, anyhow, bail};
use bottle_api::abi::PluginModuleRef;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::{cmp::Ordering, error::Error, os::fd::IntoRawFd};

/// Differences that an error names; there may be hundreds.
const SHOWN: usize = 8;

/// Loads the library. It stays loaded for as long as the process lives.
pub fn load(vetted: Vetted) -> Result<PluginModuleRef> {
    // Never closed: the linker knows a library by its path, and would take the next one with this number for this one.
    let path = format!("/proc/self/fd/{}", vetted.library.into_raw_fd());
    // SAFETY: loading runs the library's constructors. It was vetted: nobody but root and this user can have written
    // it, it is whole, it says that it is a backend for this very ABI, and it is sealed. RTLD_NOW makes a missing
    // symbol fail here.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|e| anyhow!(cause(&e).replace(&path, &vetted.name)))?;
    // Never closed: its threads and thread-locals may outlive any use of it.
    let library: &'static Library = Box::leak(Box::new(library));
    // SAFETY: if the symbol exists it is abi_stable's `static LibHeader`, whose address is an `AbiHeaderRef`.
    let header: AbiHeaderRef = *unsafe { library.get(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) }
        .map_err(|e| anyhow!("it is no bottle backend: {}", cause(&e)))?;
    let ours = AbiHeader::VALUE;
    if header.magic_string != ours.magic_string {
        bail!("it is no bottle backend: its ABI header is not abi_stable's");
    }
    if !header.is_valid() {
        bail!(
            "built with abi_stable {}.{}, this bottle with {}.{}",
            header.abi_major,
            header.abi_minor,
            ours.abi_major,
            ours.abi_minor
        );
    }
    let header: &'static LibHeader = header.upgrade().map_err(|e| anyhow!("its ABI header: {e:?}"))?;
    compare(header)?;
    // SAFETY: `compare` has compared the layout of every type that is reachable from the root module.
    unsafe { header.unchecked_layout() }.map_err(|_| anyhow!("its root module cannot be initialised"))
}

fn compare(header: &'static LibHeader) -> Result<()> {
    let theirs = header.version_strings().parsed()?;
    let ours = PluginModuleRef::VERSION_STRINGS.parsed()?;
    if theirs.major != ours.major {
        bail!("it speaks bottle-api {theirs}, this bottle {ours}");
    }
    let their_layout = header.layout().ok_or_else(|| anyhow!("it was exported without its ABI's layout"))?;
    let our_layout = <PluginModuleRef as StableAbi>::LAYOUT;
    // Not abi_stable's own record of all that was ever compared: an object only crosses between the host and one plugin,
    // and that record makes a 1.1 host refuse a 1.1 plugin once it has loaded a 1.0 one.
    let compare = |expected, found| check_layout_compatibility_with_globals(expected, found, &CheckingGlobals::new());
    let compared = match (theirs.minor, theirs.patch).cmp(&(ours.minor, ours.patch)) {
        Ordering::Greater => compare(our_layout, their_layout),
        Ordering::Less => compare(their_layout, our_layout),
        // Of one version, too, either may have been built before a verb was appended.
        Ordering::Equal => {
            compare(our_layout, their_layout).or_else(|e| compare(their_layout, our_layout).map_err(|_| e))
        }
    };
    compared.map_err(|errors| {
        anyhow!(
            "its ABI differs from this bottle's (bottle-api {theirs} there, {ours} here): it was built with a changed \
             bottle-api: {}",
            differences(&errors)
        )
    })
}

/// abi_stable's own text is 20 KB; a few words per difference tell as much.
fn differences(errors: &AbiInstabilityErrors) -> String {
    let found: Vec<String> = errors
        .errors
        .iter()
        .flat_map(|group| {
            let place = match group.stack_trace.last().map(|place| place.expected) {
                Some(TLFieldOrFunction::Field(field)) => format!("{}: ", field.full_type()),
                Some(TLFieldOrFunction::Function(function)) => format!("{}: ", function.name),
                None => String::new(),
            };
            group.errs.iter().map(move |difference| format!("{place}{}", in_words(difference)))
        })
        .collect();
    let more = found.len().saturating_sub(SHOWN);
    let shown = found[..found.len() - more].join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

fn in_words(difference: &AbiInstability) -> String {
    use AbiInstability as A;
    match difference {
        A::FieldCountMismatch(c) => format!("{} fields expected, {} found", c.expected, c.found),
        A::UnexpectedField(c) => format!("field `{}` expected, `{}` found", c.expected.name(), c.found.name()),
        A::Size(c) => format!("size {} expected, {} found", c.expected, c.found),
        A::Alignment(c) => format!("alignment {} expected, {} found", c.expected, c.found),
        A::Name(c) => format!("type `{}` expected, `{}` found", c.expected, c.found),
        A::PackageVersion(c) => format!("package version {} expected, {} found", c.expected, c.found),
        A::MismatchedPrefixSize(c) => format!("{} required methods expected, {} found", c.expected, c.found),
        A::ExtraCheckError(_) => "Send, Sync or supertraits differ".into(),
        other => format!("{other:?}").chars().take(100).collect(),
    }
}

/// libloading keeps the linker's own words in the source.
fn cause(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
