//! Connection URLs: secrets, since they hold a password. A login's URL is made from another one by putting the
//! login's name and password, and perhaps another address, in their place; all else (TLS options, database) stays.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use tenancy::Password;
use url::Url;

/// A `postgres://` URL. A secret: neither `Debug` nor `Display`.
#[derive(Clone)]
pub struct PostgresUrl(Url);

/// Where Postgres is reached instead. Whatever is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Address {
    /// Host name or address.
    pub host: Option<String>,
    /// TCP port.
    pub port: Option<u16>,
    /// Database.
    pub database: Option<String>,
    /// disable, prefer, require, verify-ca or verify-full.
    pub ssl_mode: Option<String>,
}

/// Why a text is no usable URL. Never repeats the text.
#[derive(Debug, thiserror::Error)]
pub enum PostgresUrlError {
    /// Not a URL with the scheme of Postgres.
    #[error("not a URL of the form postgres://login:password@host:port/database")]
    NotAUrl,
    /// The host, port or TLS mode cannot be part of a URL.
    #[error("the database address cannot be written into a URL")]
    Address,
    /// A parameter has a value that the driver does not know.
    #[error("a parameter of the database URL has an unknown value")]
    Parameter,
}

impl FromStr for PostgresUrl {
    type Err = PostgresUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text.trim()).map_err(|_| PostgresUrlError::NotAUrl)?;
        if matches!(url.scheme(), "postgres" | "postgresql") { Ok(Self(url)) } else { Err(PostgresUrlError::NotAUrl) }
    }
}

impl FromStr for Address {
    type Err = PostgresUrlError;

    /// Reads `host` or `host:port`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || (host.starts_with('[') && host.ends_with(']')) => {
                (host, Some(port.parse().map_err(|_| PostgresUrlError::Address)?))
            }
            _ => (text, None),
        };
        if host.is_empty() {
            return Err(PostgresUrlError::Address);
        }
        Ok(Self { host: Some(host.to_owned()), port, ..Self::default() })
    }
}

impl PostgresUrl {
    /// The text, for a Secret.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Whether both lead to the same database in the same way, whoever logs in.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place = |url: &Self| {
            let mut place = url.0.clone();
            // These fail only where there is no host: there the login is among the parameters.
            let _ = (place.set_username(""), place.set_password(None));
            let parameters = url.0.query_pairs().filter(|(name, _)| name != "user" && name != "password");
            place.query_pairs_mut().clear().extend_pairs(parameters);
            place
        };
        place(self) == place(other)
    }

    /// What the driver connects with. `application` is what `pg_stat_activity` shows.
    ///
    /// # Errors
    /// [`PostgresUrlError::Parameter`].
    pub fn connect_options(&self, application: &str) -> Result<PgConnectOptions, PostgresUrlError> {
        let options = PgConnectOptions::from_str(self.expose()).map_err(|_| PostgresUrlError::Parameter)?;
        Ok(options.application_name(application))
    }

    /// The same server and database as another login.
    ///
    /// # Errors
    /// [`PostgresUrlError::Address`] when the address cannot be part of a URL.
    pub fn login(&self, role: &str, password: &Password, address: &Address) -> Result<Self, PostgresUrlError> {
        let mut url = self.0.clone();
        let Address { host, port, database, ssl_mode } = address;
        let replaced = |key: &str| match key {
            "user" | "password" => true,
            "host" | "hostaddr" => host.is_some(),
            "port" => host.is_some() || port.is_some(),
            "dbname" => database.is_some(),
            "sslmode" | "ssl-mode" => ssl_mode.is_some(),
            _ => false,
        };
        let mut pairs: Vec<(String, String)> = self
            .0
            .query_pairs()
            .filter(|(key, _)| !replaced(key))
            .map(|(k, v)| (k.into_owned(), v.into_owned()))
            .collect();
        if let Some(host) = host {
            url.set_host(Some(host)).map_err(|_| PostgresUrlError::Address)?;
            url.set_port(*port).map_err(|()| PostgresUrlError::Address)?;
        } else if let Some(port) = port {
            url.set_port(Some(*port)).map_err(|()| PostgresUrlError::Address)?;
        }
        if let Some(database) = database {
            url.set_path(database);
        }
        if let Some(mode) = ssl_mode {
            pairs.push(("sslmode".to_owned(), mode.clone()));
        }
        if url.host_str().is_some_and(|host| !host.is_empty()) {
            url.set_username(role).map_err(|()| PostgresUrlError::Address)?;
            url.set_password(Some(password.expose())).map_err(|()| PostgresUrlError::Address)?;
        } else {
            // Without a host (a Unix socket named by a parameter), a URL has no place for a login either.
            pairs.push(("user".to_owned(), role.to_owned()));
            pairs.push(("password".to_owned(), password.expose().to_owned()));
        }
        url.set_query(None);
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        Ok(Self(url))
    }

    /// The host, if the URL names one.
    pub fn host(&self) -> Option<String> {
        self.0.host_str().filter(|host| !host.is_empty()).map(str::to_owned)
    }

    /// The port, if the URL names one.
    pub fn port(&self) -> Option<u16> {
        self.0.port()
    }

    /// The password in it, if it is one that we made.
    pub fn password(&self) -> Option<Password> {
        match self.0.password() {
            Some(password) => Password::parse(password),
            None => {
                self.0.query_pairs().find(|(key, _)| key == "password").and_then(|(_, value)| Password::parse(&value))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(from: &str, address: &Address) -> String {
        let password = Password::parse(&"p".repeat(32)).expect("the form of a password");
        let url: PostgresUrl = from.parse().expect("a URL");
        let made = url.login("t_1", &password, address).expect("a URL");
        assert!(made.password().is_some_and(|p| p.expose() == password.expose()));
        made.expose().replace(password.expose(), "PW")
    }

    #[test]
    fn all_but_login_and_address_stays() {
        let same = Address::default();
        assert_eq!(
            login("postgres://admin:x%40y@db:5433/stellar?sslmode=require", &same),
            "postgres://t_1:PW@db:5433/stellar?sslmode=require"
        );
        assert_eq!(
            login("postgres://admin@%2Ftmp%2Fsock:5433/stellar", &same),
            "postgres://t_1:PW@%2Ftmp%2Fsock:5433/stellar"
        );
        assert_eq!(
            login("postgres:///stellar?host=/tmp/sock&user=admin&password=x", &same),
            "postgres:///stellar?host=%2Ftmp%2Fsock&user=t_1&password=PW"
        );
        let other: Address = "pooler:6432".parse().expect("an address");
        assert_eq!(login("postgres://admin:x@db:5433/stellar", &other), "postgres://t_1:PW@pooler:6432/stellar");
        let tls =
            Address { ssl_mode: Some("verify-full".to_owned()), database: Some("d".to_owned()), ..Address::default() };
        assert_eq!(
            login("postgres://a:x@db/stellar?sslmode=prefer", &tls),
            "postgres://t_1:PW@db/d?sslmode=verify-full"
        );
    }

    #[test]
    fn a_place_is_the_same_whoever_logs_in_there() {
        let place = |text: &str| text.parse::<PostgresUrl>().expect("a URL");
        let began = place("postgres://stellar_operator:old@pg:5432/stellar?sslmode=require");
        assert!(place("postgres://stellar_operator:new@pg:5432/stellar?sslmode=require").is_same_place(&began));
        let socket = place("postgres:///stellar?host=/run/pg&user=stellar_operator&password=old");
        assert!(place("postgres:///stellar?host=/run/pg&user=stellar_operator&password=new").is_same_place(&socket));
        assert!(!place("postgres:///stellar?host=/run/pg2&user=stellar_operator&password=old").is_same_place(&socket));
        for moved in [
            "pg2:5432/stellar?sslmode=require",
            "pg:5433/stellar?sslmode=require",
            "pg:5432/other?sslmode=require",
            "pg:5432/stellar?sslmode=verify-full",
        ] {
            assert!(!place(&format!("postgres://stellar_operator:old@{moved}")).is_same_place(&began), "{moved}");
        }
    }

    #[test]
    fn rubbish_is_refused_without_repeating_it() {
        for rubbish in ["", "secret", "http://a:secret@b/c"] {
            let Err(error) = rubbish.parse::<PostgresUrl>() else { panic!("not a URL") };
            assert!(!error.to_string().contains("secret"));
        }
    }
}
