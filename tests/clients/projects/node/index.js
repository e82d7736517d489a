console.log(require("words").greeting + ", " + process.env.NODE_ENV);
