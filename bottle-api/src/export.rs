//! [`export_backend!`](crate::export_backend): what makes a crate a plugin.

/// Exports a [`Backend`](crate::Backend) as a plugin, once per crate:
///
/// ```text
/// bottle_api::export_backend!("docker", DockerBackend);
/// ```
///
/// The crate is a `cdylib` whose library is named `bottle_backend_<name>`, built with `panic = "unwind"`.
/// The name is `[a-z0-9][a-z0-9_]*`, shorter than 32 characters. No dependency but `bottle-api` is needed.
#[macro_export]
macro_rules! export_backend {
    ($name:literal, $backend:ty) => {
        #[doc(hidden)]
        #[allow(unsafe_code, missing_docs)]
        mod export_backend_is_called_once_per_plugin {
            use super::*;
            use $crate::__private::abi_stable::{
                library::{__call_root_module_loader, CheckTypeLayout, LibHeader, RootModuleResult},
                prefix_type::PrefixTypeTrait,
            };
            use $crate::abi::{AbiResult, BackendBox, HostServicesRef, JsonRef, PluginModule, PluginModuleRef};

            #[used]
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".bottle_plugin")]
            static BOTTLE_PLUGIN_DESCRIPTOR: $crate::descriptor::Descriptor =
                $crate::descriptor::Descriptor::new($name, env!("CARGO_PKG_VERSION"));

            extern "C" fn create(host: HostServicesRef, config: JsonRef<'_>) -> AbiResult<BackendBox> {
                $crate::__private::make_backend::<$backend>(host, config)
            }
            fn module() -> PluginModuleRef {
                PluginModule { create }.leak_into_prefix()
            }
            extern "C" fn erased() -> RootModuleResult {
                __call_root_module_loader(module)
            }
            // abi_stable's own `library::ROOT_MODULE_LOADER_NAME`: its macro would make every author depend
            // on abi_stable too.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: LibHeader =
                // SAFETY: `erased` returns this crate's own `PluginModuleRef`, and nothing else.
                unsafe { LibHeader::from_constructor::<PluginModuleRef>(erased, CheckTypeLayout::Yes) };
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_loader_symbol_is_abi_stables_own() {
        assert_eq!(abi_stable::library::ROOT_MODULE_LOADER_NAME, "_1as_0lib_1header_0root_bmodule_bloader");
    }
}
