package gate

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// rule says which names of a certificate are let in: one of the DNS names,
// addresses, URIs and email addresses of its subject alternative name. Its
// subject does not matter.
type rule struct {
	text    string
	ip      netip.Addr     // when text is an address
	pattern *regexp.Regexp // nil: text is the name itself
}

// readRule reads a rule: a name, or a pattern that a name as a whole must
// match (regular expression, RE2). What has none of a pattern's characters
// besides dots is a name: its dots are dots. Names of hosts are compared, and
// given to patterns, in lower case.
func readRule(s string) (rule, error) {
	r := rule{text: s}
	if s == "" {
		return r, fmt.Errorf("a SAN rule is empty")
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		r.ip = ip.Unmap()
		return r, nil
	}
	if !strings.ContainsAny(s, `\*+?()[]{}|^$`) {
		return r, nil
	}
	var err error
	if r.pattern, err = regexp.Compile(`\A(?:` + s + `)\z`); err != nil {
		if strings.HasPrefix(s, "*.") {
			return r, fmt.Errorf(`SAN rule %q is no pattern: %w (write [^.]+\.%s)`, s, err, strings.ReplaceAll(s[2:], ".", `\.`))
		}
		return r, fmt.Errorf("SAN rule %q is no pattern: %w", s, err)
	}
	return r, nil
}

func (r *rule) matches(name string) bool {
	if r.pattern != nil {
		return r.pattern.MatchString(name)
	}
	return r.text == name
}

// admits reports whether a rule lets a certificate in.
func (r *rule) admits(c *x509.Certificate) bool {
	for _, name := range c.DNSNames {
		name = strings.ToLower(name)
		if r.pattern != nil && r.pattern.MatchString(name) || r.pattern == nil && strings.ToLower(r.text) == name {
			return true
		}
	}
	for _, b := range c.IPAddresses {
		ip, ok := netip.AddrFromSlice(b)
		if ok && (r.ip.IsValid() && ip.Unmap() == r.ip || r.pattern != nil && r.pattern.MatchString(ip.Unmap().String())) {
			return true
		}
	}
	for _, u := range c.URIs {
		if r.matches(u.String()) {
			return true
		}
	}
	for _, mail := range c.EmailAddresses {
		if r.matches(mail) {
			return true
		}
	}
	return false
}

// names are those of a certificate that rules look at.
func names(c *x509.Certificate) []string {
	list := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	for _, u := range c.URIs {
		list = append(list, u.String())
	}
	return append(list, c.EmailAddresses...)
}

// Name is how a certificate's holder is called in what is told and logged.
func Name(c *x509.Certificate) string {
	name := c.Subject.CommonName
	if all := names(c); len(all) > 0 {
		name = all[0]
	}
	if name == "" {
		return fmt.Sprintf("certificate %x", c.SerialNumber)
	}
	return "certificate " + strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, name)
}
