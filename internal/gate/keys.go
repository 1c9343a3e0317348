package gate

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Files are what TLS needs. All are PEM.
type Files struct {
	Certificate string // of this host, and those between it and a CA
	Key         string
	// ClientCA holds the certificates of the CAs whose clients come in, and no
	// others; "": clients need no certificate.
	ClientCA   string
	MinVersion string   // 1.2 or 1.3; "": 1.2
	Rules      []string // of which a client's certificate must meet one; none: any of the CAs' will do
	// Warn is how long before a certificate ends that is warned of.
	Warn time.Duration
}

// Keys are the certificates of a server, read again whenever their files
// change. Connections that there are stay; what cannot be used leaves the old
// ones in force.
type Keys struct {
	files Files
	rules []rule
	min   uint16
	log   *slog.Logger

	mu   sync.Mutex
	seen string // the files that were read last
	now  *read
}

// read is what the files say.
type read struct {
	config  *tls.Config
	server  []*x509.Certificate
	clients []*x509.Certificate // CAs
}

// Certificate is one that somebody must renew in time.
type Certificate struct {
	Role    string // server or client-ca
	Subject string
	From    time.Time
	Until   time.Time
}

// OpenKeys reads the files. Whatever is wrong with them is an error, but for
// certificates that have ended: who may not know of an end is told by [Keys.Watch].
func OpenKeys(files Files, log *slog.Logger) (*Keys, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &Keys{files: files, log: log, min: tls.VersionTLS12}
	switch files.MinVersion {
	case "", "1.2":
	case "1.3":
		k.min = tls.VersionTLS13
	default:
		return nil, fmt.Errorf("TLS version %q: must be 1.2 or 1.3", files.MinVersion)
	}
	if len(files.Rules) > 0 && files.ClientCA == "" {
		return nil, errors.New("SAN rules need the certificate of a client CA")
	}
	for _, s := range files.Rules {
		r, err := readRule(s)
		if err != nil {
			return nil, err
		}
		k.rules = append(k.rules, r)
	}
	k.seen = k.signature()
	now, err := k.read()
	if err != nil {
		return nil, err
	}
	k.now = now
	if info, err := os.Stat(files.Key); err == nil && info.Mode().Perm()&0o077 != 0 {
		log.Warn("others than its owner may read the key", "key", files.Key, "mode", info.Mode().Perm().String())
	}
	return k, nil
}

// Mutual reports whether clients must show a certificate.
func (k *Keys) Mutual() bool { return k.files.ClientCA != "" }

// signature tells files that were changed, or replaced, from what they were.
func (k *Keys) signature() string {
	var b strings.Builder
	for _, name := range []string{k.files.Certificate, k.files.Key, k.files.ClientCA} {
		info, err := os.Stat(name)
		if err != nil {
			fmt.Fprintf(&b, "%s;", err)
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			fmt.Fprintf(&b, "%d/%d ", st.Dev, st.Ino)
		}
		fmt.Fprintf(&b, "%d %d;", info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}

// current is what the files say now, or said when they could last be used.
func (k *Keys) current() *read {
	k.mu.Lock()
	defer k.mu.Unlock()
	signature := k.signature()
	if signature == k.seen {
		return k.now
	}
	k.seen = signature
	now, err := k.read()
	if err != nil {
		// Certificate and key are not replaced at one instant.
		k.log.Error("the old certificates stay in use", "error", err)
		return k.now
	}
	k.now = now
	k.log.Info("certificates read again", "certificate", k.files.Certificate, "until", now.server[0].NotAfter)
	k.warn(time.Now())
	return now
}

func (k *Keys) read() (*read, error) {
	pair, err := k.pair()
	if err != nil {
		return nil, err
	}
	r := &read{config: &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   k.min,
		NextProtos:   []string{"http/1.1"},
		// A session that goes on would not be asked for its certificate again.
		SessionTicketsDisabled: true,
	}}
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", k.files.Certificate, err)
		}
		r.server = append(r.server, c)
	}
	leaf := r.server[0]
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return nil, fmt.Errorf("certificate %s: is not for servers (extended key usage has no serverAuth)", k.files.Certificate)
	}
	if !k.Mutual() {
		return r, nil
	}
	if r.clients, err = authorities(k.files.ClientCA); err != nil {
		return nil, fmt.Errorf("client CA %s: %w", k.files.ClientCA, err)
	}
	r.config.ClientCAs = x509.NewCertPool()
	for _, c := range r.clients {
		r.config.ClientCAs.AddCert(c)
	}
	r.config.ClientAuth = tls.RequireAndVerifyClientCert
	r.config.VerifyConnection = k.admit
	return r, nil
}

// pair reads the certificate and its key.
func (k *Keys) pair() (pair tls.Certificate, err error) {
	certificate, err := os.ReadFile(k.files.Certificate)
	if err != nil {
		return pair, fmt.Errorf("certificate: %w", err)
	}
	key, err := os.ReadFile(k.files.Key)
	if err != nil {
		return pair, fmt.Errorf("key: %w", err)
	}
	if !bytes.Contains(key, []byte("PRIVATE KEY-----")) {
		return pair, fmt.Errorf("key %s: there is no private key in it (PEM)", k.files.Key)
	}
	if pair, err = tls.X509KeyPair(certificate, key); err != nil {
		return pair, fmt.Errorf("certificate %s and key %s: %w", k.files.Certificate, k.files.Key, err)
	}
	return pair, nil
}

// authorities reads the certificates of CAs.
func authorities(file string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("there is a %s in it", strings.ToLower(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if c.BasicConstraintsValid && !c.IsCA {
			return nil, fmt.Errorf("the certificate of %s is not that of a CA", c.Subject)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("there is no certificate in it (PEM)")
	}
	return list, nil
}

// admit asks the rules about a client whose certificate is one of the CAs'.
func (k *Keys) admit(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the client shows no certificate")
	}
	c := s.PeerCertificates[0]
	if len(k.rules) == 0 || slices.ContainsFunc(k.rules, func(r rule) bool { return r.admits(c) }) {
		return nil
	}
	// Only who has a certificate of the CA can fill the log with this.
	k.log.Warn("client refused: no SAN rule admits its certificate", "names", names(c), "subject", c.Subject.String(), "serial", c.SerialNumber.Text(16))
	return fmt.Errorf("no SAN rule admits the client's certificate (%s)", strings.Join(names(c), ", "))
}

// Config is the configuration of a server. Each connection gets the
// certificates that are in force when it begins.
func (k *Keys) Config() *tls.Config {
	return &tls.Config{
		MinVersion:             k.min,
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current().config, nil },
	}
}

// Certificates are those in force.
func (k *Keys) Certificates() []Certificate {
	now := k.current()
	return now.certificates()
}

func (r *read) certificates() []Certificate {
	var list []Certificate
	add := func(role string, of []*x509.Certificate) {
		for _, c := range of {
			list = append(list, Certificate{role, c.Subject.String(), c.NotBefore, c.NotAfter})
		}
	}
	add("server", r.server)
	add("client-ca", r.clients)
	return list
}

// warn tells of certificates that end soon, have ended or have not begun.
func (k *Keys) warn(now time.Time) {
	for _, c := range k.now.certificates() {
		left := c.Until.Sub(now)
		log := k.log.With("role", c.Role, "subject", c.Subject)
		switch {
		case left <= 0:
			log.Error("a certificate has ended", "until", c.Until)
		case now.Before(c.From):
			log.Error("a certificate is not valid yet", "from", c.From)
		case left < k.files.Warn:
			log.Warn("a certificate ends soon", "until", c.Until, "days", int(left.Hours()/24))
		}
	}
}

// Watch tells of certificates that end, at once and every day, and of files
// that change, until ctx ends.
func (k *Keys) Watch(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for next := time.Now(); ; {
		k.current()
		if now := time.Now(); !now.Before(next) {
			k.mu.Lock()
			k.warn(now)
			k.mu.Unlock()
			next = now.Add(24 * time.Hour)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
