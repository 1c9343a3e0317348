package daemon

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"l3af/internal/gate"
)

// production reports whether nothing is served beyond loopback to clients
// without a certificate.
func (s *settings) production() bool {
	return strings.EqualFold(s.environment, "PROD") || strings.EqualFold(s.environment, "production")
}

// keys reads what TLS needs; nil when it is not set up.
func (s *settings) keys(log *slog.Logger) (*gate.Keys, error) {
	if s.tlsCert == "" {
		return nil, nil
	}
	keys, err := gate.OpenKeys(gate.Files{
		Certificate: s.tlsCert, Key: s.tlsKey, ClientCA: s.tlsClientCA, MinVersion: s.tlsMinVersion, Rules: s.tlsSANRules,
		Warn: time.Duration(s.tlsExpiryDays) * 24 * time.Hour,
	}, log)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return keys, nil
}

// tcp listens on the address that the setting of that name gives.
func (s *settings) tcp(name, address string, o gate.Options, log *slog.Logger) (*gate.Listener, error) {
	o.Open = !s.production()
	l, err := gate.Listen(address, o)
	if err != nil {
		return nil, &hinted{fmt.Errorf("%s: %w", name, err),
			"set tls-cert, tls-key and tls-client-ca, or use a loopback address; only another environment than PROD serves without"}
	}
	if !gate.OnLoopback(l.Addr()) && (l.Keys == nil || !l.Keys.Mutual()) {
		log.Warn("other machines need no certificate to read", "listener", name, "address", l.Addr().String(), "environment", s.environment)
	}
	return l, nil
}
