//! The bottle's own certificate authority, made in memory at each start, and the leaves that it signs.

use anyhow::{Context, Result, anyhow};
use bottle_api::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// The CA key's name among the secrets of the `egress` daemon. PKCS #8, DER.
pub(crate) const KEY_SECRET: &str = "ca-key";

/// Configurations kept; past that the cache starts anew.
const MAX_LEAVES: usize = 1000;
const LEAF_LIFE: Duration = Duration::hours(24);
const CA_LIFE: Duration = Duration::days(365);
/// Clocks differ a little.
const BACKDATED: Duration = Duration::hours(1);

/// A new certificate authority.
pub(crate) struct Authority {
    pub(crate) cert_pem: String,
    pub(crate) key: Secret,
}

impl Authority {
    /// Makes key and certificate.
    pub(crate) fn generate() -> Result<Self> {
        let key = KeyPair::generate()?;
        let cert = authority_params().self_signed(&key)?;
        Ok(Self { cert_pem: cert.pem(), key: Secret::new(key.serialize_der()) })
    }
}

/// What the authority's certificate says; the leaves' issuer is made of the same, so no certificate is parsed.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("bottle egress");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - BACKDATED, now + CA_LIFE);
    params
}

/// Leaf certificates by host, made as they are needed, all with one key that is not the CA's.
pub(crate) struct Leaves {
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    provider: Arc<CryptoProvider>,
    made: Mutex<HashMap<String, (OffsetDateTime, Arc<ServerConfig>)>>,
}

impl Leaves {
    /// Signs with this authority.
    pub(crate) fn new(ca_key: &Secret) -> Result<Self> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(ca_key.expose().to_vec()));
        let ca_key = KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        Ok(Self {
            issuer: Issuer::new(authority_params(), ca_key),
            key: KeyPair::generate()?,
            provider: Arc::new(ring::default_provider()),
            made: Mutex::default(),
        })
    }

    /// The server's side of TLS for a host or address.
    pub(crate) fn config(&self, host: &str) -> Result<Arc<ServerConfig>> {
        let now = OffsetDateTime::now_utc();
        if let Some((made, config)) = self.cache().get(host)
            && now - *made < LEAF_LIFE / 2
        {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make(host, now).with_context(|| format!("certificate for {host:?}"))?);
        let mut cache = self.cache();
        if cache.len() >= MAX_LEAVES {
            cache.clear();
        }
        cache.insert(host.to_owned(), (now, config.clone()));
        Ok(config)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<String, (OffsetDateTime, Arc<ServerConfig>)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, host: &str, now: OffsetDateTime) -> Result<ServerConfig> {
        // rcgen makes an IP entry of what parses as an address, a DNS entry of the rest.
        let mut params = CertificateParams::new(vec![host.trim_matches(['[', ']']).to_owned()])?;
        params.distinguished_name = name("bottle leaf");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (now - BACKDATED, now + LEAF_LIFE);
        let cert = params.signed_by(&self.key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).map_err(|e| anyhow!(e))?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_made_once_for_names_and_addresses() {
        let ca = Authority::generate().unwrap();
        let leaves = Leaves::new(&ca.key).unwrap();
        for host in ["api.example", "203.0.113.9", "[2001:db8::1]"] {
            let first = leaves.config(host).unwrap();
            assert!(Arc::ptr_eq(&first, &leaves.config(host).unwrap()), "{host}");
        }
        assert!(leaves.config("h\u{f6}st").is_err());
    }
}
