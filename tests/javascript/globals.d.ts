// What page.js finds in an exported file: the widget's module, joined before it.
declare const labkitWidget: { render(context: { model: object; el: HTMLElement }): unknown };
