package daemon

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"l3af/client"
	"l3af/internal/kernel"
)

// Where things are when nobody says otherwise.
const (
	DefaultSocket   = client.DefaultSocket
	DefaultStateDir = "/var/lib/l3afd"
	DefaultBpffs    = kernel.DefaultBpffs
)

// settings are what flags and the configuration file say. The keys of the
// file are the names of the flags.
type settings struct {
	config    string
	version   bool
	socket    string
	listen    string // TCP address of the API; "" means none
	stateDir  string
	bpffs     string
	pidFile   string // "" means none
	hostName  string // what requests of L3AF's API must name; "" means the machine's
	importing string // a store of L3AF that is the first state; "" means none

	logFormat  string
	logLevel   string
	logFile    string // "" means standard error
	logSize    int    // megabytes at which a log file is put aside
	logBackups int    // log files put aside that are kept
	logDays    int    // for how long

	tlsCert, tlsKey string // files; "" means no TLS
	tlsClientCA     string // "" means clients need no certificate
	tlsMinVersion   string // 1.2 or 1.3
	tlsSANRules     list   // of which a client's certificate must match one; none: every certificate of the CA
	tlsExpiryDays   int    // days before a certificate ends that it is warned of
	environment     string // PROD: nothing but loopback without TLS
	loopbackWrite   string // off or root: who may write over TCP without TLS

	metricsListen string // "" means none but the API's
	debugListen   string // "" means none
	swagger       bool   // serve /swagger/

	packageRepo     string // URL or directory of L3AF packages
	packageCodename string // the directory of this distribution in it; "" means the machine's
	packageTimeout  time.Duration
	packageCA       string // of https servers, besides the system's; "" means none
	packageCert     string // for https servers that ask who we are; "" means none
	packageKey      string
	pinBase         string // below which maps are pinned as agents of L3AF expect
	agentPoll       time.Duration
	agentLogDir     string // passed to agents; "" means none
	monitorSamples  int    // of max-rate and avg

	restartRepo    string // URL of new versions of l3afd; "" means PUT restart is refused
	restartDir     string
	restartTimeout time.Duration
	restartLimit   int // of each number of a version

	notes []string // about the configuration file, for the log
}

// list is a flag that may come several times. In the file it is a list, or one text.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

const usage = `l3afd keeps the eBPF programs of this node as the applied state says.

usage: l3afd [flags]
       l3afd config migrate [FILE]
                    prints the configuration file of L3AF 2 (l3afd.cfg, else
                    standard input) as the YAML of this one

  -config FILE      YAML file whose keys are the names of these flags; flags
                    win. The INI file of L3AF 2 is read as well
  -socket PATH      unix socket of the API (default ` + DefaultSocket + `)
  -listen ADDR      TCP address of the API (default none)
  -state-dir DIR    where revisions and packages are kept (default ` + DefaultStateDir + `)
  -bpffs DIR        where programs and maps are pinned (default ` + DefaultBpffs + `)
  -pid-file FILE    where the process ID is written (default none)
  -host-name NAME   what requests of L3AF's API call this host (default hostname)
  -import FILE      store of L3AF 2 that becomes the state when none was applied yet
  -version          print the version and exit

log
  -log-format F     text or json (default text)
  -log-level L      debug, info, warn or error (default info, or what
                    L3AF_LOG_LEVEL in the environment says)
  -log-file FILE    default standard error
  -log-size MB      size at which a log file is put aside (default 100)
  -log-backups N    how many are kept (default 10)
  -log-days N       for how long (default 60)

who may do what over TCP (on the unix socket: root and the group l3af write)
  -tls-cert FILE    certificate of this host and those of its CAs, PEM
  -tls-key FILE     its key, PEM
  -tls-client-ca FILE
                    CA whose clients may write; others are refused
  -tls-min-version V
                    1.2 or 1.3 (default 1.2)
  -tls-san-rules RULE
                    name, or pattern that a name as a whole must match, in a
                    client's certificate; may be repeated (default any)
  -tls-expiry-warning-days N
                    (default 30)
  -environment E    PROD: without TLS nothing is served beyond loopback (default PROD)
  -loopback-write W off, or root: root's processes may write over loopback
                    without TLS (default off)

other listeners
  -metrics-listen ADDR
                    /metrics (default none; the API has it as well)
  -debug-listen ADDR
                    /bpfs/INTERFACE as L3AF has it (default none)
  -swagger          /swagger/ describes the API

packages and agents
  -package-repo URL repository of L3AF packages, http(s):// or file://
  -package-codename NAME
                    this distribution's directory in it (default VERSION_CODENAME
                    of /etc/os-release)
  -package-timeout D
                    for one download (default 30s)
  -package-ca FILE  certificates (PEM) that vouch for https servers as well as
                    the system's do
  -package-cert FILE
                    certificate for servers that ask who we are, PEM
  -package-key FILE its key
  -pin-base DIR     bpffs below which maps are found by agents of L3AF
                    (default /sys/fs/bpf)
  -agent-poll-interval D
                    how often agents are asked how they are (default 30s)
  -agent-log-dir DIR
                    passed to agents as --log-dir
  -monitor-samples N
                    of max-rate and avg, one a second (default 20)

restart with another version
  -restart-repo URL where VERSION/l3afd.tar.gz is (default none: refused)
  -restart-dir DIR  where versions are unpacked (default /usr/local/l3afd)
  -restart-timeout D
                    how long the new version may take (default 30s)
  -restart-version-limit N
                    the largest number in a version (default 100)
`

// errUsage is a mistake on the command line.
type errUsage struct{ error }

func (e errUsage) Unwrap() error { return e.error }

// flags are the flags that set s, which has their defaults from now on.
func (s *settings) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("l3afd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&s.config, "config", "", "")
	fs.BoolVar(&s.version, "version", false, "")
	fs.StringVar(&s.socket, "socket", DefaultSocket, "")
	fs.StringVar(&s.listen, "listen", "", "")
	fs.StringVar(&s.stateDir, "state-dir", DefaultStateDir, "")
	fs.StringVar(&s.bpffs, "bpffs", DefaultBpffs, "")
	fs.StringVar(&s.pidFile, "pid-file", "", "")
	fs.StringVar(&s.hostName, "host-name", "", "")
	fs.StringVar(&s.importing, "import", "", "")
	fs.StringVar(&s.logFormat, "log-format", "text", "")
	fs.StringVar(&s.logLevel, "log-level", "info", "")
	fs.StringVar(&s.logFile, "log-file", "", "")
	fs.IntVar(&s.logSize, "log-size", 100, "")
	fs.IntVar(&s.logBackups, "log-backups", 10, "")
	fs.IntVar(&s.logDays, "log-days", 60, "")
	fs.StringVar(&s.tlsCert, "tls-cert", "", "")
	fs.StringVar(&s.tlsKey, "tls-key", "", "")
	fs.StringVar(&s.tlsClientCA, "tls-client-ca", "", "")
	fs.StringVar(&s.tlsMinVersion, "tls-min-version", "1.2", "")
	fs.Var(&s.tlsSANRules, "tls-san-rules", "")
	fs.IntVar(&s.tlsExpiryDays, "tls-expiry-warning-days", 30, "")
	fs.StringVar(&s.environment, "environment", "PROD", "")
	fs.StringVar(&s.loopbackWrite, "loopback-write", "off", "")
	fs.StringVar(&s.metricsListen, "metrics-listen", "", "")
	fs.StringVar(&s.debugListen, "debug-listen", "", "")
	fs.BoolVar(&s.swagger, "swagger", false, "")
	fs.StringVar(&s.packageRepo, "package-repo", "", "")
	fs.StringVar(&s.packageCodename, "package-codename", "", "")
	fs.DurationVar(&s.packageTimeout, "package-timeout", 30*time.Second, "")
	fs.StringVar(&s.packageCA, "package-ca", "", "")
	fs.StringVar(&s.packageCert, "package-cert", "", "")
	fs.StringVar(&s.packageKey, "package-key", "", "")
	fs.StringVar(&s.pinBase, "pin-base", "/sys/fs/bpf", "")
	fs.DurationVar(&s.agentPoll, "agent-poll-interval", 30*time.Second, "")
	fs.StringVar(&s.agentLogDir, "agent-log-dir", "", "")
	fs.IntVar(&s.monitorSamples, "monitor-samples", 20, "")
	fs.StringVar(&s.restartRepo, "restart-repo", "", "")
	fs.StringVar(&s.restartDir, "restart-dir", "/usr/local/l3afd", "")
	fs.DurationVar(&s.restartTimeout, "restart-timeout", 30*time.Second, "")
	fs.IntVar(&s.restartLimit, "restart-version-limit", 100, "")
	return fs
}

// parse reads flags and the configuration file.
func parse(args []string) (settings, error) {
	var s settings
	fs := s.flags()
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return s, err
		}
		return s, errUsage{err}
	}
	if fs.NArg() > 0 {
		return s, errUsage{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	if s.config != "" {
		given := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
		notes, err := readConfig(s.config, fs, given)
		if err != nil {
			return s, fmt.Errorf("config %s: %w", s.config, err)
		}
		s.notes = notes
	}
	s.logLevelOfUpstream(fs, os.Getenv("L3AF_LOG_LEVEL"))
	return s, s.check()
}

// check refuses what cannot be, and makes paths absolute.
func (s *settings) check() error {
	for _, c := range []struct {
		key, value string
		possible   []string
	}{
		{"log-format", s.logFormat, []string{"text", "json"}},
		{"log-level", s.logLevel, []string{"debug", "info", "warn", "error"}},
		{"tls-min-version", s.tlsMinVersion, []string{"1.2", "1.3"}},
		{"loopback-write", s.loopbackWrite, []string{"off", "root"}},
	} {
		if !slices.Contains(c.possible, c.value) {
			return errUsage{fmt.Errorf("%s %q: must be %s", c.key, c.value, strings.Join(c.possible, " or "))}
		}
	}
	for _, c := range []struct {
		key      string
		positive bool
	}{
		{"log-size", s.logSize > 0}, {"log-backups", s.logBackups >= 0}, {"log-days", s.logDays >= 0},
		{"tls-expiry-warning-days", s.tlsExpiryDays >= 0}, {"package-timeout", s.packageTimeout > 0},
		{"agent-poll-interval", s.agentPoll > 0}, {"monitor-samples", s.monitorSamples > 0 && s.monitorSamples <= 10_000},
		{"restart-timeout", s.restartTimeout > 0}, {"restart-version-limit", s.restartLimit >= 0},
	} {
		if !c.positive {
			return errUsage{fmt.Errorf("%s is out of range", c.key)}
		}
	}
	if (s.tlsCert == "") != (s.tlsKey == "") {
		return errUsage{errors.New("tls-cert and tls-key belong together")}
	}
	if (s.packageCert == "") != (s.packageKey == "") {
		return errUsage{errors.New("package-cert and package-key belong together")}
	}
	if s.tlsCert == "" && (s.tlsClientCA != "" || len(s.tlsSANRules) > 0) {
		return errUsage{errors.New("tls-client-ca and tls-san-rules need tls-cert and tls-key")}
	}
	if s.tlsClientCA == "" && len(s.tlsSANRules) > 0 {
		return errUsage{errors.New("tls-san-rules needs tls-client-ca")}
	}
	for _, p := range []struct {
		key      string
		path     *string
		optional bool
	}{
		{"socket", &s.socket, false}, {"state-dir", &s.stateDir, false}, {"bpffs", &s.bpffs, false}, {"pin-base", &s.pinBase, false},
		{"restart-dir", &s.restartDir, false}, {"pid-file", &s.pidFile, true}, {"log-file", &s.logFile, true}, {"import", &s.importing, true},
		{"tls-cert", &s.tlsCert, true}, {"tls-key", &s.tlsKey, true}, {"tls-client-ca", &s.tlsClientCA, true},
		{"package-ca", &s.packageCA, true}, {"package-cert", &s.packageCert, true}, {"package-key", &s.packageKey, true},
	} {
		if *p.path == "" {
			if p.optional {
				continue
			}
			return errUsage{fmt.Errorf("%s is empty", p.key)}
		}
		abs, err := filepath.Abs(*p.path)
		if err != nil {
			return err
		}
		*p.path = abs
	}
	var err error
	if s.hostName == "" {
		if s.hostName, err = os.Hostname(); err != nil {
			return fmt.Errorf("host-name: %w", err)
		}
	}
	return nil
}
