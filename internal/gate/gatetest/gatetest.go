// Package gatetest makes certificates for tests.
package gatetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Pair is a certificate and its key.
type Pair struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
	chain       [][]byte
}

// Template is a certificate for an hour, with no names and of no use yet.
func Template() *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	return &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
}

// CA makes a CA that has signed itself.
func CA(t testing.TB, name string) *Pair {
	t.Helper()
	c := Template()
	c.Subject = pkix.Name{CommonName: name}
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	return Sign(t, c, nil)
}

// Server makes a certificate for localhost.
func Server(t testing.TB, ca *Pair) *Pair {
	t.Helper()
	c := Template()
	c.Subject = pkix.Name{CommonName: "server"}
	c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	return Sign(t, c, ca)
}

// Client makes a certificate for a client: its names are of DNS, but for
// addresses and URIs.
func Client(t testing.TB, ca *Pair, names ...string) *Pair {
	t.Helper()
	c := Template()
	c.Subject = pkix.Name{CommonName: "client"}
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			c.URIs = append(c.URIs, u)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	return Sign(t, c, ca)
}

// Sign makes a key and a certificate of it; ca nil: signed by itself.
func Sign(t testing.TB, c *x509.Certificate, ca *Pair) *Pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, by := c, key
	if ca != nil {
		parent, by = ca.Certificate, ca.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	p := &Pair{Key: key, chain: [][]byte{der}}
	if p.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return p
}

// TLS is the pair as a client shows it.
func (p *Pair) TLS() tls.Certificate {
	return tls.Certificate{Certificate: p.chain, PrivateKey: p.Key, Leaf: p.Certificate}
}

// PEM gives the certificate and the key.
func (p *Pair) PEM(t testing.TB) (certificate, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Write writes the pair to files in a directory, each in one step.
func (p *Pair) Write(t testing.TB, dir string) (certificate, key string) {
	t.Helper()
	c, k := p.PEM(t)
	certificate, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	Replace(t, key, k)
	Replace(t, certificate, c)
	return certificate, key
}

// WriteCA writes certificates to a file.
func WriteCA(t testing.TB, file string, cas ...*Pair) string {
	t.Helper()
	var text []byte
	for _, ca := range cas {
		c, _ := ca.PEM(t)
		text = append(text, c...)
	}
	Replace(t, file, text)
	return file
}

// Replace writes a file in one step.
func Replace(t testing.TB, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}
