package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"

	"github.com/spf13/pflag"
)

// remote is how l3afd is reached over TCP.
type remote struct {
	server, cert, key, ca string
}

func (r *remote) flags(flags *pflag.FlagSet) {
	flags.StringVar(&r.server, "server", "", "https://HOST:PORT of l3afd, in place of its socket (default $L3AF_SERVER)")
	flags.StringVar(&r.cert, "cert", "", "certificate to show to --server, PEM")
	flags.StringVar(&r.key, "key", "", "its key, PEM")
	flags.StringVar(&r.ca, "ca", "", "CAs that vouch for --server, PEM (default the system's)")
}

// daemonFlags are those that lead to the same daemon.
func (a *app) daemonFlags() []string {
	if a.remote.server == "" {
		return []string{"--socket", a.socket}
	}
	var list []string
	for _, f := range [][2]string{{"--server", a.remote.server}, {"--cert", a.remote.cert}, {"--key", a.remote.key}, {"--ca", a.remote.ca}} {
		if f[1] != "" {
			list = append(list, f[:]...)
		}
	}
	return list
}

// open checks the flags and reads the files they name.
func (r *remote) open(socket string) (*tls.Config, error) {
	if r.server == "" && socket == "" {
		r.server = os.Getenv("L3AF_SERVER")
	}
	if r.server == "" {
		if r.cert+r.key+r.ca != "" {
			return nil, &usageError{"--cert, --key and --ca are for --server", ""}
		}
		return nil, nil
	}
	u, err := url.Parse(r.server)
	switch {
	case socket != "":
		return nil, &usageError{"--socket and --server are two ways to the same", "name one"}
	case err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.Scheme != "https" && u.Scheme != "http":
		return nil, &usageError{fmt.Sprintf("%q is not a server", r.server), "write https://HOST:PORT"}
	case (r.cert == "") != (r.key == ""):
		return nil, &usageError{"--cert and --key belong together", ""}
	}
	config := &tls.Config{}
	if r.cert != "" {
		pair, err := tls.LoadX509KeyPair(r.cert, r.key)
		if err != nil {
			return nil, fmt.Errorf("certificate %s and key %s: %w", r.cert, r.key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if r.ca != "" {
		text, err := os.ReadFile(r.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca %s: there is no certificate in it (PEM)", r.ca)
		}
	}
	return config, nil
}
