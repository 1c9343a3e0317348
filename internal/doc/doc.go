// Package doc reads and writes the documents that people write: YAML, or JSON.
package doc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	maxDepth   = 100     // of lists and mappings in one another
	maxAliased = 100_000 // nodes that aliases add to a document
)

// Parse reads one YAML or JSON document into a tree of nil, bool, string,
// [json.Number], []any and map[string]any.
//
// Numbers keep every digit; integers in hex, octal or binary become decimal.
// YAML dates are strings, and the scalar keys of YAML mappings are taken as
// they are written. Refused are duplicate keys, a second document, tags of
// the writer's own, integers with a leading zero (octal for some readers,
// decimal for others), and documents that are empty, too deep or blown up by
// aliases. Errors say the line.
func Parse(data []byte) (any, error) {
	if !utf8.Valid(data) && !utf16(data) {
		return nil, errors.New("the document is neither UTF-8 nor UTF-16 text")
	}
	if start := bytes.TrimLeft(data, " \t\r\n"); len(start) > 0 && (start[0] == '{' || start[0] == '[') && json.Valid(data) {
		return parseJSON(data)
	}
	return parseYAML(data)
}

func utf16(data []byte) bool {
	return bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff"))
}

func parseYAML(data []byte) (any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := decode(dec, &root); errors.Is(err, io.EOF) {
		return nil, errors.New("the document is empty")
	} else if err != nil {
		return nil, syntax(data, err)
	}
	var next yaml.Node
	if err := decode(dec, &next); err == nil {
		return nil, fmt.Errorf("line %d: a second document starts here: only one is allowed", next.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, syntax(data, err)
	}
	if len(root.Content) != 1 || root.Content[0].ShortTag() == "!!null" && root.Content[0].Value == "" {
		return nil, errors.New("the document is empty")
	}
	var r reader
	return r.node(root.Content[0], 0)
}

// decode keeps a bug of the YAML library from taking the program down.
func decode(dec *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot read the document: %v", p)
		}
	}()
	return dec.Decode(n)
}

var lineOf = regexp.MustCompile(`^line (\d+): `)

// syntax words an error of the YAML library.
func syntax(data []byte, err error) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := lineOf.FindStringSubmatch(msg); m != nil {
		n, _ := strconv.Atoi(m[1])
		lines := bytes.SplitN(data, []byte("\n"), n+1)
		// The library counts some errors from line 0.
		for i := max(n-1, 0); i < min(n+1, len(lines)); i++ {
			if bytes.HasPrefix(bytes.TrimLeft(lines[i], " -"), []byte("\t")) {
				return fmt.Errorf("line %d: a tab cannot indent YAML: use spaces", i+1)
			}
		}
		return errors.New(msg)
	}
	// The library names no line for the first one, nor for these.
	line, at := 1, -1
	if name, ok := strings.CutPrefix(msg, "unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		at = bytes.Index(data, []byte("*"+name))
	} else if strings.HasPrefix(msg, "control characters") {
		at = bytes.IndexFunc(data, func(r rune) bool {
			return r != '\t' && r != '\n' && r != '\r' && r != '\u0085' && unicode.IsControl(r)
		})
	}
	if at > 0 {
		line += bytes.Count(data[:at], []byte("\n"))
	}
	return fmt.Errorf("line %d: %s", line, msg)
}

type reader struct {
	open    []*yaml.Node // aliased nodes being read
	aliased int          // nodes read inside of aliases
}

func (r *reader) node(n *yaml.Node, depth int) (any, error) {
	if depth >= maxDepth && n.Kind != yaml.ScalarNode {
		return nil, fmt.Errorf("line %d: more than %d lists and mappings in one another", n.Line, maxDepth)
	}
	if len(r.open) > 0 {
		if r.aliased++; r.aliased > maxAliased {
			return nil, fmt.Errorf("line %d: aliases make the document too large", n.Line)
		}
	}
	switch n.Kind {
	case yaml.ScalarNode:
		return scalar(n)
	case yaml.SequenceNode:
		if tag := n.ShortTag(); tag != "!!seq" {
			return nil, fmt.Errorf("line %d: a list cannot have the tag %s", n.Line, tag)
		}
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			v, err := r.node(e, depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = v
		}
		return list, nil
	case yaml.MappingNode:
		return r.mapping(n, depth)
	case yaml.AliasNode:
		for _, o := range r.open {
			if o == n.Alias {
				return nil, fmt.Errorf("line %d: *%s contains itself", n.Line, n.Value)
			}
		}
		r.open = append(r.open, n.Alias)
		v, err := r.node(n.Alias, depth+1)
		r.open = r.open[:len(r.open)-1]
		return v, err
	}
	return nil, fmt.Errorf("line %d: cannot read this", n.Line)
}

func (r *reader) mapping(n *yaml.Node, depth int) (any, error) {
	if tag := n.ShortTag(); tag != "!!map" {
		return nil, fmt.Errorf("line %d: a mapping cannot have the tag %s", n.Line, tag)
	}
	m := make(map[string]any, len(n.Content)/2)
	lines := make(map[string]int, len(n.Content)/2)
	var merged []any // later ones yield to earlier ones
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = &yaml.Node{Kind: k.Alias.Kind, Tag: k.Alias.Tag, Value: k.Alias.Value, Style: k.Alias.Style, Line: k.Line}
		}
		if k.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key must be a word or a number", k.Line)
		}
		if k.ShortTag() == "!!null" && k.Value == "" {
			return nil, fmt.Errorf("line %d: a key is missing before the colon", k.Line)
		}
		key := k.Value
		merge := k.ShortTag() == "!!merge"
		if first, ok := lines[key]; ok {
			return nil, fmt.Errorf("line %d: the key %s is on line %d already", k.Line, quote(key), first)
		}
		lines[key] = k.Line
		val, err := r.node(v, depth+1)
		if err != nil {
			return nil, err
		}
		if !merge {
			m[key] = val
			continue
		}
		if list, ok := val.([]any); ok {
			merged = append(merged, list...)
		} else {
			merged = append(merged, val)
		}
		for _, o := range merged {
			if _, ok := o.(map[string]any); !ok {
				return nil, fmt.Errorf("line %d: << takes a mapping or a list of mappings", k.Line)
			}
		}
	}
	for _, o := range merged {
		for key, val := range o.(map[string]any) {
			if _, ok := m[key]; !ok {
				m[key] = val
			}
		}
	}
	return m, nil
}

var (
	leadingZero = regexp.MustCompile(`^[-+]?0[0-9_]+$`)
	decimal     = regexp.MustCompile(`^[-+]?[0-9]+$`)
	jsonNumber  = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
)

func scalar(n *yaml.Node) (any, error) {
	switch tag := n.ShortTag(); tag {
	case "!!null":
		return nil, nil
	case "!!bool":
		switch n.Value {
		case "true", "True", "TRUE":
			return true, nil
		case "false", "False", "FALSE":
			return false, nil
		}
		return nil, fmt.Errorf("line %d: %s is not a boolean", n.Line, quote(n.Value))
	case "!!str", "!!timestamp", "!!merge":
		return n.Value, nil
	case "!!int", "!!float":
		num, err := number(n.Value)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n.Line, err)
		}
		return num, nil
	default:
		return nil, fmt.Errorf("line %d: the tag %s is not allowed", n.Line, clip(tag))
	}
}

func number(text string) (json.Number, error) {
	plain := strings.ReplaceAll(text, "_", "")
	if leadingZero.MatchString(text) {
		return "", fmt.Errorf("%s could be octal or decimal: write 0o%[2]s or %[2]s, or quote it", clip(text),
			clip(strings.TrimLeft(plain[:len(plain)-1], "+-0")+plain[len(plain)-1:]))
	}
	if jsonNumber.MatchString(plain) {
		return json.Number(plain), nil
	}
	if decimal.MatchString(plain) { // +5
		return json.Number(strings.TrimPrefix(plain, "+")), nil
	}
	if len(plain) <= 128 { // hex, octal or binary, up to 64 bits
		if i, ok := new(big.Int).SetString(plain, 0); ok {
			return json.Number(i.String()), nil
		}
	}
	if f, err := strconv.ParseFloat(plain, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
		return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), nil
	}
	return "", fmt.Errorf("%s is not a number that can be kept", quote(text))
}

func parseJSON(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return jsonValue(data, dec, 0)
}

func jsonLine(data []byte, dec *json.Decoder) int {
	return 1 + bytes.Count(data[:dec.InputOffset()], []byte("\n"))
}

func jsonValue(data []byte, dec *json.Decoder, depth int) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", jsonLine(data, dec), err)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if depth++; depth > maxDepth {
		return nil, fmt.Errorf("line %d: more than %d lists and mappings in one another", jsonLine(data, dec), maxDepth)
	}
	if delim == '[' {
		list := []any{}
		for dec.More() {
			v, err := jsonValue(data, dec, depth)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	m := map[string]any{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", jsonLine(data, dec), err)
		}
		key := tok.(string) // the decoder takes nothing else here
		if _, ok := m[key]; ok {
			return nil, fmt.Errorf("line %d: the key %s is there already", jsonLine(data, dec), quote(key))
		}
		if m[key], err = jsonValue(data, dec, depth); err != nil {
			return nil, err
		}
	}
	_, err = dec.Token()
	return m, err
}

func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:61], "") + "..."
}
