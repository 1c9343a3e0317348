package artifact

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// RepositoryRef is the reference of a package in a repository as L3AF lays it
// out: REPO/NAME/VERSION/CODENAME/FILE. repo is a file://, http:// or https://
// URL, or the absolute path of a directory; the others are parts of a path, and
// file is an archive.
func RepositoryRef(repo, name, version, codename, file string) (string, error) {
	if filepath.IsAbs(repo) {
		repo = (&url.URL{Scheme: "file", Path: repo}).String()
	}
	u, err := url.Parse(repo)
	if err != nil || u.Scheme != "file" && u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("repository %q: want a file://, http:// or https:// URL, or an absolute path", clip(repo))
	}
	for _, part := range []struct{ what, s string }{{"name", name}, {"version", version}, {"codename", codename}, {"archive", file}} {
		if err := pathPart(part.s); err != nil {
			return "", fmt.Errorf("%s of the package: %w", part.what, err)
		}
	}
	if !isArchive(file) {
		return "", fmt.Errorf("%q is no archive: its name ends in none of .tar.gz, .tgz and .zip", clip(file))
	}
	return u.JoinPath(url.PathEscape(name), url.PathEscape(version), url.PathEscape(codename), url.PathEscape(file)).String(), nil
}

// pathPart checks what becomes one part of a path.
func pathPart(s string) error {
	if plainPath(s) != nil || strings.Contains(s, "/") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%q cannot be one part of a path", clip(s))
	}
	return nil
}

// Codename is what this distribution calls its release, such as bookworm:
// VERSION_CODENAME of os-release(5).
func Codename() (string, error) {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("codename of this distribution: %w", err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			v, ok := strings.CutPrefix(lines.Text(), "VERSION_CODENAME=")
			if !ok {
				continue
			}
			if bare, err := strconv.Unquote(v); err == nil {
				v = bare
			}
			if v = strings.Trim(v, "'"); pathPart(v) == nil {
				return v, nil
			}
		}
		return "", fmt.Errorf("codename of this distribution: %s has no VERSION_CODENAME", name)
	}
	return "", errors.New("codename of this distribution: there is no /etc/os-release")
}
