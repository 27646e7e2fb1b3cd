package faults

import (
	"fmt"
	"strings"
)

// route is where a rule leads that is not about that.
const route = "route: [{destination: {host: NAME}}]"

// virtualService is one of the row's service, with one rule.
func virtualService(rule string) string {
	return object("networking.istio.io/v1", "VirtualService", "NAME", "{hosts: [NAME], http: [{"+rule+"}]}")
}

// destinationRule is one of the row's service.
func destinationRule(spec string) string {
	return object("networking.istio.io/v1", "DestinationRule", "NAME", "{host: NAME, "+spec+"}")
}

func object(version, kind, name, spec string) string {
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", version, kind, name, strings.ReplaceAll(spec, "ROUTE", route))
}

// documents joins YAML documents.
func documents(texts ...string) string { return strings.Join(texts, "---\n") }
