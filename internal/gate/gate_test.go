package gate

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"strings"
	"testing"

	"l3af/internal/gate/gatetest"
)

// What is bound decides, not how it is written.
func TestListen(t *testing.T) {
	ca := gatetest.CA(t, "clients")
	f := files(t, gatetest.Server(t, ca), ca)
	mutual, err := OpenKeys(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.ClientCA = ""
	oneSided, err := OpenKeys(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		address string
		options Options
		want    string
	}{
		{"localhost:0", Options{}, "plain"},
		{"127.0.0.1:0", Options{}, "plain"},
		{"127.3.2.1:0", Options{RootWrites: true}, "plain root"},
		{"[::1]:0", Options{RootWrites: true}, "plain root"},
		{"[::ffff:127.0.0.1]:0", Options{}, "plain"},
		{":0", Options{}, "TLS is not set up: other machines could connect"},
		{"0.0.0.0:0", Options{}, "is not the loopback address"},
		{"[::]:0", Options{RootWrites: true}, "is not the loopback address"},
		{"[::ffff:0.0.0.0]:0", Options{}, "is not the loopback address"},
		{"0.0.0.0:0", Options{Keys: oneSided}, "clients need no certificate: other machines could connect"},
		{"0.0.0.0:0", Options{Keys: mutual, RootWrites: true}, "tls"},
		{"0.0.0.0:0", Options{Keys: mutual, PlainLoopback: true}, "tls"},
		{"0.0.0.0:0", Options{Open: true, RootWrites: true}, "plain"},
		{"0.0.0.0:0", Options{Open: true, Keys: oneSided}, "tls"},
		{"127.0.0.1:0", Options{Keys: oneSided, RootWrites: true}, "tls"},
		{"127.0.0.1:0", Options{Keys: mutual, PlainLoopback: true}, "plain"},
		{"lo:0", Options{}, "lookup lo"},
	} {
		l, err := Listen(r.address, r.options)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = "plain"
			if l.Keys != nil {
				got = "tls"
			}
			if l.RootWrites {
				got += " root"
			}
			l.Close()
		}
		if err == nil && got != r.want || err != nil && !strings.Contains(got, r.want) {
			if strings.Contains(got, "cannot assign requested address") {
				continue // no IPv6 here
			}
			t.Errorf("%s %+v: %s, want %s", r.address, r.options, got, r.want)
		}
	}
	for address, want := range map[string]bool{"127.0.0.1": true, "127.255.0.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"0.0.0.0": false, "::": false, "::ffff:10.0.0.1": false, "10.0.0.1": false, "fe80::1": false, "": false} {
		if got := OnLoopback(&net.TCPAddr{IP: net.ParseIP(address), Port: 1}); got != want {
			t.Errorf("%s is on loopback: %t", address, got)
		}
	}
	for host, want := range map[string]bool{"localhost": true, "localhost:53000": true, "LOCALHOST:1": true, "127.0.0.1:7": true, "[::1]:7": true, "::1": true,
		"a.localhost": true, "example.com": false, "127.0.0.1.example.com": false, "10.0.0.1:7": false, "": false, "localhost.example.com:80": false} {
		if got := LocalHost(host); got != want {
			t.Errorf("host %s is local: %t", host, got)
		}
	}
}

func TestRules(t *testing.T) {
	u, err := url.Parse("spiffe://example.org/l3af?x=1")
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{DNSNames: []string{"Ops-1.example.com", "b.example.com"}, URIs: []*url.URL{u}, EmailAddresses: []string{"ops@example.com"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")}}
	for s, want := range map[string]bool{
		"ops-1.example.com":                   true,
		"OPS-1.EXAMPLE.COM":                   true,
		"ops-1xexample.com":                   false,
		"b.example.com.":                      false,
		"example.com":                         false,
		`ops-[0-9]+\.example\.com`:            true,
		`ops-[0-9]+`:                          false,
		`[0-9]+\.example\.com`:                false,
		`(?i)OPS-\d.*`:                        true,
		`a|b\.example\.com|c`:                 true,
		`ops-1\.example\.com\nx|^zzz`:         false,
		"192.0.2.7":                           true,
		"192.0.2.70":                          false,
		"::ffff:192.0.2.7":                    true,
		"2001:0db8:0::7":                      true,
		`192\.0\.2\.(7|8)`:                    true,
		`spiffe://example\.org/l3af\?x=[0-9]`: true,
		"spiffe://example.org/l3af":           false,
		"ops@example.com":                     true,
		"OPS@example.com":                     false,
		`[^@]+@example\.com`:                  true,
		".*":                                  true,
	} {
		r, err := readRule(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got := r.admits(c); got != want {
			t.Errorf("%s admits: %t", s, got)
		}
	}
	for _, s := range []string{".*", "a", "192.0.2.7"} {
		if r, _ := readRule(s); r.admits(&x509.Certificate{}) {
			t.Errorf("%s admits a certificate without a name", s)
		}
	}
	// A name with a line's end matches as a whole or not at all.
	odd := &x509.Certificate{EmailAddresses: []string{"ops@example.com\nevil"}}
	for _, s := range []string{`ops@example\.com$`, `(?m)ops@example\.com$`, `^ops@.*com`} {
		if r, err := readRule(s); err != nil || r.admits(odd) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// gateless is a certificate without a name that rules look at.
var gateless = &x509.Certificate{Subject: pkix.Name{CommonName: "root"}}
