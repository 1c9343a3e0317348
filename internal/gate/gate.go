// Package gate decides who may come in over TCP: it keeps listeners that
// prove nothing within the machine, holds the certificates of those that do,
// and asks the kernel whose the other end of a connection on loopback is.
package gate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Listener is a TCP listener and what it takes to come in.
type Listener struct {
	net.Listener
	// Keys are those of TLS; nil: there is none.
	Keys *Keys
	// RootWrites: without TLS, processes of root on this machine may write.
	RootWrites bool
}

// Options say how a listener is to be. The zero value listens without TLS, on
// loopback only.
type Options struct {
	// Keys, when set, are used wherever connections may come from.
	Keys *Keys
	// PlainLoopback: Keys are not used where connections come from this machine.
	PlainLoopback bool
	// Open: connections may come from elsewhere without a certificate.
	Open       bool
	RootWrites bool // as in [Listener]
	// Bind gives what listens on an address; nil: net.Listen.
	Bind func(network, address string) (net.Listener, error)
}

// Listen listens on a TCP address. Unless o.Open, it refuses what other
// machines could reach without showing a certificate. How the address is written
// does not matter: what counts is what the socket was bound to.
func Listen(address string, o Options) (*Listener, error) {
	bind := o.Bind
	if bind == nil {
		bind = net.Listen
	}
	l, err := bind("tcp", address)
	if err != nil {
		return nil, err
	}
	if o.PlainLoopback && OnLoopback(l.Addr()) {
		o.Keys = nil
	}
	if !o.Open && !OnLoopback(l.Addr()) && (o.Keys == nil || !o.Keys.Mutual()) {
		l.Close()
		why := "TLS is not set up"
		if o.Keys != nil {
			why = "clients need no certificate"
		}
		return nil, fmt.Errorf("listen on %s: %s is not the loopback address, and %s: other machines could connect", address, l.Addr(), why)
	}
	return &Listener{Listener: l, Keys: o.Keys, RootWrites: o.RootWrites && o.Keys == nil && OnLoopback(l.Addr())}, nil
}

// OnLoopback reports whether only this machine can connect to an address.
func OnLoopback(a net.Addr) bool {
	ip, err := addressOf(a)
	return err == nil && ip.Addr().IsLoopback()
}

// addressOf is the address and port of a TCP address; IPv4 in IPv6 is IPv4.
func addressOf(a net.Addr) (netip.AddrPort, error) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, errors.New("not a TCP address")
	}
	ip := tcp.AddrPort()
	return netip.AddrPortFrom(ip.Addr().Unmap(), ip.Port()), nil
}

// LocalHost reports whether a request's Host names this machine's loopback: a
// page of another site that has its name lead to 127.0.0.1 sends its own name.
func LocalHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
