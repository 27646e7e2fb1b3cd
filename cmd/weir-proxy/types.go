package main

import (
	"bytes"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/reflect/protoregistry"
)

const typedStructURL = "type.googleapis.com/xds.type.v3.TypedStruct"

// asTypedStructs has messages of types that are not linked in as TypedStructs, in a document of JSON: what carries them says
// whether it can do without (is_optional of filters), or is an error with its path, as by xDS. Only decoding would end there.
func asTypedStructs(doc []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if !wrap(tree) {
		return doc, nil // as it was, so that places in it are those of the file
	}
	return json.Marshal(tree)
}

// wrap changes tree and reports whether there was anything to change.
func wrap(tree any) (changed bool) {
	switch v := tree.(type) {
	case []any:
		for _, each := range v {
			changed = wrap(each) || changed
		}
	case map[string]any:
		if url, ok := v["@type"].(string); ok {
			if _, err := protoregistry.GlobalTypes.FindMessageByURL(url); err == protoregistry.NotFound && strings.Contains(url, "/") {
				value := map[string]any{}
				for k, each := range v {
					if k != "@type" {
						value[k] = each
						delete(v, k)
					}
				}
				v["@type"], v["type_url"], v["value"] = typedStructURL, url, value
				return true
			}
		}
		for _, each := range v {
			changed = wrap(each) || changed
		}
	}
	return changed
}
