//! The bottle's own certificate authority, made in memory at each start, and the leaves that it signs.

use anyhow::{Context, Result, anyhow};
use bottle_api::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{NoServerSessionStorage, ProducesTickets},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};

/// The CA key's name among the secrets of the `egress` daemon. PKCS #8, DER.
pub(crate) const KEY_SECRET: &str = "ca-key";

/// Configurations kept; past that the one goes that was not used for longest.
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
    /// The same key, as TLS uses it.
    signing: Arc<dyn SigningKey>,
    provider: Arc<CryptoProvider>,
    /// Sessions are resumed by what the client brings, so that none is kept here. A ticket is for its name only.
    tickets: Arc<dyn ProducesTickets>,
    made: Mutex<HashMap<String, Leaf>>,
}

struct Leaf {
    made: OffsetDateTime,
    used: OffsetDateTime,
    config: Arc<ServerConfig>,
}

impl Leaves {
    /// Signs with this authority.
    pub(crate) fn new(ca_key: &Secret) -> Result<Self> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(ca_key.expose().to_vec()));
        let ca_key = KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow!(e))?;
        Ok(Self {
            issuer: Issuer::new(authority_params(), ca_key),
            key,
            signing: ring::sign::any_ecdsa_type(&der)?,
            provider: Arc::new(ring::default_provider()),
            tickets: ring::Ticketer::new()?,
            made: Mutex::default(),
        })
    }

    /// The server's side of TLS for a host or address.
    pub(crate) fn config(&self, host: &str) -> Result<Arc<ServerConfig>> {
        let now = OffsetDateTime::now_utc();
        if let Some(leaf) = self.cache().get_mut(host)
            && now - leaf.made < LEAF_LIFE / 2
        {
            leaf.used = now;
            return Ok(leaf.config.clone());
        }
        let config = Arc::new(self.make(host, now).with_context(|| format!("certificate for {host:?}"))?);
        let mut cache = self.cache();
        if cache.len() >= MAX_LEAVES
            && let Some(oldest) = cache.iter().min_by_key(|(_, leaf)| leaf.used).map(|(host, _)| host.clone())
        {
            cache.remove(&oldest);
        }
        cache.insert(host.to_owned(), Leaf { made: now, used: now, config: config.clone() });
        Ok(config)
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<String, Leaf>> {
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
        let certified = CertifiedKey::new(vec![cert.der().clone()], self.signing.clone());
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.tickets.clone();
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

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let leaves = Leaves::new(&Authority::generate().unwrap().key).unwrap();
        let used = leaves.config("used.example").unwrap();
        for n in 0..MAX_LEAVES + 10 {
            leaves.config(&format!("h{n}.example")).unwrap();
            assert!(Arc::ptr_eq(&used, &leaves.config("used.example").unwrap()));
        }
        assert_eq!(leaves.cache().len(), MAX_LEAVES);
    }
}
