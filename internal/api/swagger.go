package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// The page at /swagger/ shows the description of the API. It is one file: no
// script, and nothing of other servers.

//go:embed swagger.html
var swaggerHTML string

// spec is what the page shows of an OpenAPI description.
type spec struct {
	Info struct {
		Title, Version, Description string
	}
	Paths      map[string]map[string]operation
	Components struct {
		Schemas map[string]schema
	}
}

type operation struct {
	Summary, Description string
	Parameters           []struct {
		Name, In, Description string
		Required              bool
		Schema                schema
	}
	RequestBody struct {
		Required bool
		Content  map[string]struct{ Schema schema }
	}
	Responses map[string]struct {
		Description string
		Content     map[string]struct{ Schema schema }
	}

	Method, Path string `json:"-"`
}

type schema struct {
	Ref                  string `json:"$ref"`
	Title, Description   string
	Type                 any
	Items                *schema
	Enum                 []any
	Properties           map[string]schema
	Required             []string
	AdditionalProperties json.RawMessage
}

// Name is the schema that is referred to; "" for one that stands here.
func (s schema) Name() string { return strings.TrimPrefix(s.Ref, "#/components/schemas/") }

// Kind is the type in words.
func (s schema) Kind() string {
	switch t := s.Type.(type) {
	case string:
		return t
	case []any:
		return strings.Trim(strings.ReplaceAll(fmt.Sprint(t...), " ", " or "), "[]")
	}
	return "anything"
}

// Values are what objects without named properties hold.
func (s schema) Values() *schema {
	var v schema
	if len(s.AdditionalProperties) == 0 || json.Unmarshal(s.AdditionalProperties, &v) != nil {
		return nil
	}
	return &v
}

var swaggerPage = sync.OnceValues(func() ([]byte, error) {
	var s spec
	if err := json.Unmarshal(openAPI, &s); err != nil {
		return nil, err
	}
	var operations []operation
	for _, path := range slices.Sorted(maps.Keys(s.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(s.Paths[path])) {
			op := s.Paths[path][method]
			op.Method, op.Path = strings.ToUpper(method), path
			operations = append(operations, op)
		}
	}
	page, err := template.New("swagger").Parse(swaggerHTML)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, map[string]any{"Info": s.Info, "Operations": operations, "Schemas": s.Components.Schemas})
	return out.Bytes(), err
})

func (s *Server) getSwagger(w http.ResponseWriter, r *http.Request) error {
	off := &Problem{Status: http.StatusNotFound, Code: CodeNotFound, Detail: "/swagger/ is not served", Hint: "swagger: true in the configuration of l3afd serves it; /openapi.json is there always"}
	if !s.swagger {
		return off
	}
	switch r.PathValue("page") {
	case "doc.json":
		return s.getOpenAPI(w, r)
	case "index.html", "":
		page, err := swaggerPage()
		if err != nil {
			return fmt.Errorf("swagger page: %w", err)
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		return s.write(w, http.StatusOK, "text/html; charset=utf-8", page)
	}
	off.Detail, off.Hint = "there is no such page", "/swagger/index.html is one"
	return off
}
