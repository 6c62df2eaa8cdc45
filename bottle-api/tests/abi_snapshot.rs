//! Every type reachable from the root module, held against a golden copy.
//!
//! A method appended to a vtable is a minor release, anything else a major one. `BLESS=1` rewrites the copy,
//! so that a break of the ABI is always visible in review.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

use abi_stable::{
    StableAbi,
    std_types::UTypeId,
    type_layout::{TLData, TypeLayout},
};
use std::{collections::HashSet, fmt::Write};

/// Depth first, in order of declaration: the same text in every build.
fn walk(layout: &'static TypeLayout, seen: &mut HashSet<UTypeId>, out: &mut String) {
    if !seen.insert(layout.get_utypeid()) {
        return;
    }
    let mut children: Vec<&'static TypeLayout> = layout.phantom_fields().iter().map(|f| f.layout()).collect();
    let name = format!("{}::{} ({})", layout.package(), layout.full_type(), layout.mod_path());
    writeln!(out, "{name}  size {} align {}", layout.size(), layout.alignment()).unwrap();
    if let TLData::PrefixType(prefix) = layout.data() {
        writeln!(out, "  vtable/module: first {} fields required", prefix.first_suffix_field).unwrap();
    }
    for field in layout.get_fields().into_iter().flat_map(|fields| fields.iter().collect::<Vec<_>>()) {
        if !field.is_function() {
            writeln!(out, "    {}: {}", field.name(), field.full_type()).unwrap();
            children.push(field.layout());
            continue;
        }
        for function in field.function_range().iter() {
            let parameters: Vec<_> = function.param_type_layouts.iter().map(|get| get()).collect();
            let returned = function.return_type_layout().map(|get| get());
            let list: Vec<_> = parameters.iter().map(|p| p.full_type().to_string()).collect();
            let back = returned.map_or("()".into(), |r| r.full_type().to_string());
            writeln!(out, "    fn {}({}) -> {back}", function.name, list.join(", ")).unwrap();
            children.extend(parameters);
            children.extend(returned);
        }
    }
    children.into_iter().for_each(|child| walk(child, seen, out));
}

#[test]
fn the_abi_is_the_one_that_was_blessed() {
    let mut now = String::new();
    walk(<bottle_api::abi::PluginModuleRef as StableAbi>::LAYOUT, &mut HashSet::new(), &mut now);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/abi.snapshot");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let blessed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(now == blessed, "the ABI differs from bottle-api/abi.snapshot; see the box in abi.rs, then BLESS=1");
}
