"use strict";
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  // The hosted validator is of no use to a server that it cannot reach, and would be told of it.
  validatorUrl: null,
});
